"""An image folder in a plan: which paths are refused, and classes too small for what the suite draws."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.errors import DataError, ParamsError
from fewshot.experiments.fits import check_draws
from fewshot.experiments.params import Params
from fewshot.files import read_json
from fewshot.settings import parse_as
from fewshot.workflow.jobs import prepare_job, train_job
from fewshot.workflow.plan import make_plan

CLASSES = {"train": 4, "val": 3, "test": 3}
IMAGES = 7


@pytest.fixture
def images(project):
    """Return a folder in an empty project with split folders: 4, 3 and 3 classes of 7 images."""
    random = np.random.default_rng(0)
    for split, count in CLASSES.items():
        for path in [f"{split}/{split} {n}/{i}.png" for n in range(count) for i in range(IMAGES)]:
            write_image(project / "mine" / path, random)
    return project / "mine"


def write_image(path: Path, random: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(stream, "PNG")
    path.write_bytes(stream.getvalue())


@pytest.fixture
def plan_of(project, tiny_params):
    """Return a function that plans the tiny suite on an image folder."""

    def planned(path="mine", recipe=None, split_file=None, results=Path("results"), **changes):
        values = tiny_params("prototype", dataset="birds", recipe={"image_size": 16, **(recipe or {})}, **changes)
        values["prepare"] = {"birds": {"base": "folder", "path": str(path), "image_size": 16, "split_file": split_file}}
        return make_plan(parse_as(Params, values, where=""), "tiny", results)

    return planned


OUTPUTS = ["data/prepared", "results", "cache", "logs"]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("below", ["", "/birds"])
def test_path_in_the_projects_own_output_is_refused(project, plan_of, output, below):
    (project / f"{output}/birds").mkdir(parents=True)
    with pytest.raises(ParamsError, match=f"prepare.birds.path: '{output}{below}' (is in|contains) {output}, where"):
        plan_of(f"{output}{below}")


@pytest.mark.parametrize("path", ["data", ".", "data/raw", "mine/../data", "{project}", "link"])
def test_path_that_contains_the_projects_own_output_is_refused(project, images, plan_of, path):
    (project / "data" / "raw").mkdir(parents=True)
    (project / "link").symlink_to(project / "data")
    with pytest.raises(ParamsError, match=r"contains data/(prepared|raw), where this project writes its own files"):
        plan_of(path.format(project=project))


def test_path_that_does_not_exist_is_refused_with_its_setting(project, plan_of):
    with pytest.raises(DataError, match=r"^prepare\.birds\.path: mime: no such file or folder; correct the path"):
        plan_of("mime")


def test_path_in_another_results_folder_is_refused(project, plan_of):
    (project / "elsewhere" / "birds").mkdir(parents=True)
    with pytest.raises(ParamsError, match="is in elsewhere"):
        plan_of("elsewhere/birds", results=Path("elsewhere"))


def test_split_file_in_the_results_is_refused(project, images, plan_of):
    (project / "results").mkdir()
    (project / "results" / "split.yaml").write_text("train: [a]\n")
    with pytest.raises(ParamsError, match=r"prepare.birds.split_file: 'results/split.yaml' is in results"):
        plan_of(split_file="results/split.yaml")


@pytest.mark.parametrize("path", ["data/birds", "data/raw/birds", "data-prepared", "results-2"])
def test_path_next_to_the_projects_own_output_is_accepted(project, images, plan_of, path):
    (project / path).parent.mkdir(parents=True, exist_ok=True)
    images.rename(project / path)
    assert plan_of(path).prepare[0].name == "birds"


def test_manifest_says_what_was_skipped(images, plan_of):
    (images / "train" / "train 0" / ".DS_Store").write_bytes(b"x")
    job = plan_of().prepare[0]

    prepare_job(job)

    assert read_json(job.outputs["manifest"])["provenance"]["skipped"] == {"hidden files": 1}


SMALL = {
    "training": ("train", {"n_shot": 5, "n_query": 3, "validation": {"episodes": 0}}, {"n_query": 1}, 8),
    "validation": ("val", {"validation": {"episodes": 2, "n_shot": 4, "n_query": 5}}, {"n_query": 1}, 9),
    "evaluation": ("test", {}, {"shots": [1, 5], "n_query": 3}, 8),
}


@pytest.mark.parametrize("use", SMALL)
def test_class_too_small_for_what_is_drawn_is_refused_by_name(images, plan_of, use):
    split, recipe, evaluate, needed = SMALL[use]
    random = np.random.default_rng(1)
    for folder in sorted((images / split).iterdir())[1:]:  # all classes but the first get enough images
        for number in range(IMAGES, needed):
            write_image(folder / f"{number}.png", random)

    with pytest.raises(DataError) as caught:
        prepare_job(plan_of(recipe=recipe, evaluate=evaluate).prepare[0])

    assert str(caught.value).startswith("birds: ")
    assert f"queries per class requested for {use}, but 1 of " in str(caught.value)
    assert f"have fewer images: {split} 0 (7);" in str(caught.value)


def test_split_with_too_few_classes_is_refused(images, plan_of):
    message = r"birds: 4 ways requested for evaluation, but split 'test' has 3 classes; lower evaluate\.n_way"
    with pytest.raises(DataError, match=message):
        prepare_job(plan_of(evaluate={"n_way": 4}).prepare[0])


def test_classes_that_are_just_large_enough_are_accepted(images, plan_of):
    job = plan_of(evaluate={"shots": [1, 3], "n_query": 4}).prepare[0]  # 3 + 4 = 7 images
    prepare_job(job)
    assert job.outputs["manifest"].exists()


def test_draws_do_not_change_the_key_of_the_data(images, plan_of):
    small, large = plan_of(), plan_of(recipe={"n_shot": 40})
    assert small.prepare[0].draws != large.prepare[0].draws
    assert small.prepare[0].key == large.prepare[0].key


def test_training_on_data_prepared_for_another_suite_names_the_class_too(images, plan_of):
    prepare_job(plan_of().prepare[0])
    plan = plan_of(recipe={"n_shot": 40})
    with pytest.raises(DataError, match=r"40 shots \+ 3 queries per class requested for training, .*: train 0 \(7\)"):
        train_job(plan.train[0], plan)


def test_each_lack_is_one_line(images, plan_of, tiny_store):
    draws = plan_of(recipe={"n_shot": 40}, evaluate={"n_way": 50}).prepare[0].draws
    with pytest.raises(DataError) as caught:
        check_draws("birds", tiny_store, draws)
    training, evaluation = str(caught.value).splitlines()
    assert "8 of 8 classes of split 'train' have fewer images" in training
    assert "split 'test' has 6 classes" in evaluation
