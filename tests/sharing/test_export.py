"""An export is self-contained: it loads in another process, classifies, and is refused with the reason if damaged."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import fewshot
from fewshot.backbones import BACKBONES
from fewshot.datasets.images import decode_image
from fewshot.errors import CheckpointError, DataError, FewshotError, ResourceError
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Choice
from fewshot.files import read_json, write_json
from fewshot.learners import ADAPTIVE_LEARNERS, CLASSIFIERS, EPISODIC_LEARNERS

ADAPTIVE = {"backbone": "conv4_maml"}


def test_loaded_learner_has_the_exported_weights(tiny_experiment, write_export):
    experiment = tiny_experiment("ridge")
    loaded = fewshot.load(write_export(experiment)).learner.state_dict()
    trained = initial_learner(experiment).state_dict()
    assert all(torch.equal(loaded[name].cpu(), trained[name]) for name in trained)


@pytest.mark.parametrize("learner", [*EPISODIC_LEARNERS, *CLASSIFIERS])
def test_learner_with_a_head_takes_any_number_of_classes(exported, coloured_images, learner):
    model = fewshot.load(exported(learner, backbone="pixels"))
    for n_way in (2, 4):
        colours = list(range(n_way)) * 3
        answers = model.classify(coloured_images(colours), colours, coloured_images(range(n_way), seed=1))
        assert answers == list(range(n_way))


@pytest.mark.parametrize("learner", ADAPTIVE_LEARNERS)
def test_adaptive_learner_scores_its_number_of_classes(exported, coloured_images, learner):
    model = fewshot.load(exported(learner, **ADAPTIVE))
    colours = [0, 1, 2] * 2
    scores = model.scores(coloured_images(colours), colours, coloured_images([2, 0, 1, 1], seed=1))
    assert scores.shape == (4, 3)
    assert scores.isfinite().all()


def test_adaptive_learner_classifies_easy_images(exported, coloured_images):
    model = fewshot.load(
        exported("maml", **ADAPTIVE, **{"learner.inner_steps": 20, "learner.inner_learning_rate": 0.1})
    )
    colours = [0, 1, 2] * 3
    assert model.classify(coloured_images(colours), colours, coloured_images(colours, seed=1)) == colours


def test_adaptive_learner_refuses_a_different_number_of_classes(exported, coloured_images):
    model = fewshot.load(exported("cxgrad", **ADAPTIVE))
    with pytest.raises(DataError, match="exactly 3 classes, not 4"):
        model.classify(coloured_images(range(4)), list(range(4)), coloured_images([0]))


def test_labels_may_be_strings(exported, coloured_images):
    model = fewshot.load(exported("prototype", backbone="pixels"))
    answers = model.classify(coloured_images([0, 1, 0, 1]), ["red", "green"] * 2, coloured_images([1, 0], seed=1))
    assert answers == ["green", "red"]


def test_columns_of_scores_are_the_sorted_labels(exported, coloured_images):
    model = fewshot.load(exported("prototype", backbone="pixels"))
    scores = model.scores(coloured_images([0, 1]), ["red", "green"], coloured_images([0], seed=1))
    assert scores.argmax(1).tolist() == [1]


def test_labels_may_be_a_tensor(exported, coloured_images):
    model = fewshot.load(exported("prototype", backbone="pixels"))
    assert model.classify(coloured_images([0, 1]), torch.tensor([7, 3]), coloured_images([1, 0], seed=1)) == [3, 7]


def test_paths_pil_images_and_arrays_of_any_size_give_the_same_scores(exported, coloured_images, tmp_path):
    model = fewshot.load(exported("prototype", backbone="conv4"))
    support, query = coloured_images([0, 1]), coloured_images([0, 1, 2], seed=1, size=24)
    for number, array in enumerate(query):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    from_arrays = model.scores(support, [0, 1], query)
    from_pictures = model.scores(support, [0, 1], [Image.fromarray(array) for array in query])
    from_paths = model.scores(support, [0, 1], [tmp_path / "0.png", str(tmp_path / "1.png"), tmp_path / "2.png"])
    assert torch.equal(from_pictures, from_arrays)
    assert torch.equal(from_paths, from_arrays)


def test_images_are_cropped_where_those_of_the_training_were(exported, tiny_experiment, write_export, coloured_images):
    cropped = replace(tiny_experiment("prototype"), dataset=Choice("mine", "folder", {"resize": "center_crop"}))
    support, wide = coloured_images([0, 1]), np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = coloured_images([2], seed=1)[0]

    model = fewshot.load(write_export(cropped))

    assert torch.equal(model.scores(support, [0, 1], [wide]), model.scores(support, [0, 1], [wide[:, 16:32]]))


def test_drawings_are_inverted_and_reduced_where_those_of_the_training_were(tiny_experiment, write_export):
    drawn = replace(tiny_experiment("prototype"), dataset=Choice("omniglot", "omniglot", {}))
    ink = np.zeros((3, 28, 28, 3), np.uint8)
    for number, image in enumerate(ink):
        image[4 + 6 * number : 8 + 6 * number] = 255

    model = fewshot.load(write_export(drawn))
    expected = model.preprocess.images(ink)

    assert torch.equal(model._prepared(list(255 - ink), "query").cpu(), expected), "black ink on white paper"
    assert torch.equal(model._prepared(list(ink), "query").cpu(), expected), "already as stored"


def test_answer_does_not_depend_on_the_other_queries(exported, coloured_images):
    model = fewshot.load(exported("svm"))
    support, query = coloured_images([0, 1, 2]), coloured_images([0, 1, 2, 0], seed=1)
    together = model.scores(support, [0, 1, 2], query)
    alone = torch.cat([model.scores(support, [0, 1, 2], [image]) for image in query])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_scores_are_computed_as_in_evaluations_and_leave_the_callers_settings(exported, coloured_images, monkeypatch):
    model, seen = fewshot.load(exported("prototype")), []
    embed = model.learner.embed
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(
        model.learner, "embed", lambda images: seen.append(torch.backends.cudnn.allow_tf32) or embed(images)
    )

    model.scores(coloured_images([0, 1]), [0, 1], coloured_images([0]))

    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32 is True


def test_the_device_can_be_chosen(exported):
    assert fewshot.load(exported("prototype"), device="cpu").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", 1.5])
def test_a_device_that_cannot_be_used_is_refused(exported, device):
    with pytest.raises(ResourceError, match="which cannot be used; found: cpu"):
        fewshot.load(exported("prototype"), device=device)


def test_loading_keeps_the_random_state(exported):
    folder = exported("ridge")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fewshot.load(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("support", "labels", "query", "message"),
    [
        (2, [0], 1, "2 support images but 1 labels; give one label per image"),
        (2, [0, 0], 1, "1 classes among the support images"),
        (2, [0, "a"], 1, "several types"),
        (2, [0, 1], 0, "no query images"),
        (0, [], 1, "0 classes"),
    ],
)
def test_inconsistent_images_and_labels_are_refused(exported, coloured_images, support, labels, query, message):
    model = fewshot.load(exported("prototype"))
    with pytest.raises(DataError, match=message):
        model.classify(coloured_images([0] * support), labels, coloured_images([0] * query))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((16, 16)), r"query image 0 is float64 of shape \(16, 16\)"),
        (np.zeros((3, 16, 16), np.uint8), "allowed: a path, a PIL image"),
        ("gone.png", r"query image 0 \(gone\.png\) cannot be read \(No such file"),
        (None, "query image 0 is object"),
    ],
)
def test_invalid_image_is_named(exported, coloured_images, image, message):
    model = fewshot.load(exported("prototype"))
    with pytest.raises(DataError, match=message):
        model.classify(coloured_images([0, 1]), [0, 1], [image])


def test_damaged_image_file_is_named(exported, coloured_images, tmp_path):
    model = fewshot.load(exported("prototype"))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match=r"query image 0 .*bad\.png"):
        model.classify(coloured_images([0, 1]), [0, 1], [tmp_path / "bad.png"])


def test_all_unusable_images_are_named_in_one_message(exported, coloured_images, tmp_path):
    model = fewshot.load(exported("prototype"))
    (tmp_path / ".DS_Store").write_bytes(b"left by a file manager")
    cut = Image.open(io.BytesIO(encoded(coloured_images([0])[0])[:300]))
    floats = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(DataError) as caught:
        model.classify(
            coloured_images([0, 1]), [0, 1], [tmp_path / ".DS_Store", *coloured_images([0]), "a\0b", cut, floats]
        )
    first, *listed = str(caught.value).splitlines()
    assert first == "query images: 4 images cannot be used; replace them or leave them out:"
    assert [line.split()[2] for line in listed] == ["0", "2", "3", "4"]
    assert ".DS_Store" in listed[0]
    assert "floating-point" in listed[3]


def encoded(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("as_path", [True, False], ids=["path", "PIL image"])
def test_pictures_are_converted_as_in_preparation(exported, coloured_images, tmp_path, caplog, as_path):
    model = fewshot.load(exported("prototype", backbone="pixels"))
    levels = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    decoded = np.asarray(decode_image((tmp_path / "grey.png").read_bytes(), "x").image)
    support = coloured_images([0, 1])

    query = tmp_path / "grey.png" if as_path else Image.open(tmp_path / "grey.png")
    scores = model.scores(support, [0, 1], [query, query])

    assert torch.equal(scores, model.scores(support, [0, 1], [decoded, decoded]))
    assert caplog.messages == ["query images converted: 2 (16-bit grey: 2)"]


def test_card_shows_only_the_results_of_the_exported_state(tiny_experiment, write_export):
    results = [
        {"shot": 1, "selection": selection, "accuracy": accuracy, "ci95": 0.01, "episodes": 20}
        for selection, accuracy in (("single", 0.5), ("ensemble", 0.6))
    ]
    evaluation = {"target": "glyphs", "batch_norm": "running", "results": results}
    card = (write_export(tiny_experiment("ridge"), [evaluation]) / "README.md").read_text(encoding="utf-8")
    assert "| glyphs | 1 | 50.00 ± 1.00 | 20 | running |" in card
    assert "60.00" not in card
    assert "3-way accuracy" in card


def test_card_says_which_numbers_are_of_training_classes(tiny_experiment, write_export):
    targets = ["cifar_fs", "fc100"]
    experiment = tiny_experiment("ridge", dataset="cifar_fs", evaluate={"targets": targets})
    evaluations = [{"target": target, "batch_norm": "running", "results": []} for target in targets]
    card = (write_export(experiment, evaluations) / "README.md").read_text(encoding="utf-8")
    assert "\nOn fc100, 11 of the 20 tested classes are training classes.\n" in card
    assert "On cifar_fs" not in card


@pytest.mark.parametrize(
    ("learner", "parts", "sentence"),
    [("ridge", {}, "any number of classes"), ("maml", ADAPTIVE, "exactly 3 classes")],
)
def test_card_says_how_many_classes_the_learner_distinguishes(exported, learner, parts, sentence):
    card = (exported(learner, **parts) / "README.md").read_text(encoding="utf-8")
    assert f"It distinguishes {sentence}." in card


def test_folder_that_cannot_be_written_is_named(exported, tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(FewshotError, match="model: cannot be written"):
        exported("ridge")


def test_exporting_again_gives_byte_identical_files(exported):
    found = [{file.name: file.read_bytes() for file in exported("ridge").iterdir()} for _ in range(2)]
    assert sorted(found[0]) == ["README.md", "model.json", "weights.safetensors"]
    assert found[0] == found[1]


CHANGES = {
    "missing folder": (None, "not an export"),
    "invalid JSON": (b"{", "damaged"),
    "not text": (b"\xff\xfe\x00", "damaged"),
    "nested too deeply": (b"[" * 100_000, "damaged"),
    "a list": ([], "format 'list'"),
    "another format": ({"format": 99}, "format 99"),
    "format as text": ({"format": "1"}, "format '1'"),
    "unexpected key": ({"code": "import os"}, "unknown key 'code'"),
    "missing settings": ({"train": {}}, "missing key 'dataset'"),
    "unknown backbone": ({"train.backbone": {"name": "conv5"}}, r"unknown backbone 'conv5'.*Did you mean 'conv4'"),
    "learner without a name": ({"train.learner": {"ridge": 1.0}}, r"train\.learner\.name"),
    "module path instead of a name": ({"train.learner": {"name": "os:system"}}, "unknown learner 'os:system'"),
    "learner out of range": ({"train.learner": {"name": "ridge", "ridge": -1.0}}, r"train\.learner\.ridge: -1\.0"),
    "huge network": ({"train.backbone": {"name": "conv4", "filters": 10**9}}, r"train\.backbone\.filters: 1000000000"),
    "recipe value of the wrong type": ({"train.recipe": {"n_way": "five"}}, r"train\.recipe\.n_way"),
    "missing image size": ({"train.recipe": {}}, "image_size"),
    "tiny images": ({"train.recipe": {"image_size": 8}}, "image_size 8 is too small"),
    "incompatible components": ({"train.learner": {"name": "maml"}}, "needs conv4_maml"),
    "negative seed": ({"train.seed": -1}, "seed"),
    "wrong checksum": ({"weights_sha256": "0" * 64}, "sha256 differs"),
    "invalid checksum": ({"weights_sha256": "x"}, "weights_sha256"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_damaged_description_is_refused_with_the_reason(exported, tmp_path, case):
    change, message = CHANGES[case]
    folder = exported("ridge") if change is not None else tmp_path / "nowhere"
    if isinstance(change, bytes):
        (folder / "model.json").write_bytes(change)
    elif isinstance(change, list):
        write_json(folder / "model.json", change)
    elif change is not None:
        record = read_json(folder / "model.json")
        del record["record_sha256"]  # as in an export written by another program
        for place, value in change.items():
            section, _, key = place.rpartition(".")
            (record[section] if section else record)[key] = value
        write_json(folder / "model.json", record)
    with pytest.raises(CheckpointError, match=message):
        fewshot.load(folder)


@pytest.mark.parametrize("changed", [{"variant": "other"}, {"train_key": "0" * 12}, {"record_sha256": "0" * 64}])
def test_a_description_that_does_not_match_its_hash_is_refused(exported, changed):
    folder = exported("ridge")
    record = read_json(folder / "model.json")
    write_json(folder / "model.json", record | changed)

    with pytest.raises(CheckpointError, match=r"model\.json: changed since it was exported \(its hash differs\)"):
        fewshot.load(folder)


HOSTILE = "/etc/passwd\x1b[31m\u202e" + "../" * 2000


def test_names_and_paths_in_a_description_are_data(exported, coloured_images, tmp_path):
    folder, secret = exported("maml", **ADAPTIVE), tmp_path / "secret"
    os.mkfifo(secret)  # opening it would wait for ever
    record = read_json(folder / "model.json")
    record |= {"experiment": str(secret), "recipe": HOSTILE, "variant": str(secret), "train_key": HOSTILE}
    record["train"] |= {"dataset": f"{secret}{HOSTILE}", "weights": str(secret)}
    record["record_sha256"] = None
    write_json(folder / "model.json", record)

    model = fewshot.load(folder)
    with pytest.raises(DataError) as error:
        model.classify(coloured_images([0, 1]), [0, 1], coloured_images([0]))

    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("section", ["format", "experiment", "train.dataset", "train.backbone.name", "train.learner.x"])
def test_hostile_text_in_a_description_is_shown_escaped_and_shortened(exported, section):
    folder = exported("ridge")
    record = read_json(folder / "model.json")
    *way, key = section.split(".")
    values = record
    for step in way:
        values = values[step]
    values[key] = [HOSTILE] if section in ("experiment", "train.dataset") else HOSTILE
    write_json(folder / "model.json", record)

    with pytest.raises(CheckpointError) as error:
        fewshot.load(folder)

    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("folder", ["x" * 5000, "a\0b", "\x1b[31m"])
def test_odd_folder_names_are_refused(folder):
    with pytest.raises(CheckpointError, match="not an export") as error:
        fewshot.load(folder)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("image", ["x" * 5000, "a\0b", "\x1b[31m\n"])
def test_odd_image_names_are_refused(exported, coloured_images, image):
    model = fewshot.load(exported("prototype"))
    with pytest.raises(DataError, match=r"query image 0.* cannot be read") as error:
        model.classify(coloured_images([0, 1]), [0, 1], [image])
    assert all(line.isprintable() for line in str(error.value).splitlines())


def test_damaged_weights_are_refused(exported):
    folder = exported("ridge")
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        fewshot.load(folder)


@pytest.mark.parametrize(("old", "new"), [('"n_query": 3', '"n_query": 7'), ('"ridge": 50.0', '"ridge": 70.0')])
def test_changed_settings_are_refused(exported, old, new):
    file = exported("ridge") / "model.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=r"model\.json: changed since it was exported"):
        fewshot.load(file.parent)


def test_missing_weights_are_named(exported):
    folder = exported("ridge")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: no such file"):
        fewshot.load(folder)


def test_weights_of_another_model_are_refused(exported):
    folder = exported("ridge")
    record = read_json(folder / "model.json")
    del record["record_sha256"]
    record["train"]["backbone"]["filters"] = 5
    write_json(folder / "model.json", record)
    with pytest.raises(CheckpointError, match="of a different shape"):
        fewshot.load(folder)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "conv4_maml"])
def test_every_backbone_loads_again(exported, backbone):
    assert fewshot.load(exported("prototype", backbone=backbone, recipe={"image_size": 32})).experiment.image_size == 32


IN_ANOTHER_PROCESS = """
import sys, numpy as np, fewshot
model = fewshot.load(sys.argv[1])
support, query = np.load(sys.argv[2])["support"], np.load(sys.argv[2])["query"]
print(model.scores(support, [0, 1, 2], query).tolist())
"""


@pytest.mark.parametrize(("learner", "parts"), [("svm", {}), ("cxgrad", ADAPTIVE)])
def test_fresh_process_gives_the_same_scores(exported, coloured_images, tmp_path, learner, parts):
    folder = exported(learner, **parts)
    support, query = coloured_images([0, 1, 2]), coloured_images([0, 1, 2], seed=1)
    np.savez(tmp_path / "images.npz", support=support, query=query)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder), str(tmp_path / "images.npz")]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=300, check=True)
    here = fewshot.load(folder).scores(support, [0, 1, 2], query)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), here, rtol=1e-5, atol=1e-6)
