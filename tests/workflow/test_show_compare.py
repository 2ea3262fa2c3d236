"""`fewshot show` and `fewshot compare` print what finished jobs and tables hold, and write nothing."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.cli import main
from fewshot.datasets.seen_classes import SeenClasses
from fewshot.experiments.reader import read_params
from fewshot.report import stats
from fewshot.workflow.plan import load_plan

PARAMS = """\
suite: tiny
suites:
  tiny:
    - {dataset: shapes, backbone: conv4, learner: [ridge, prototype], recipe: quick, seed: [0, 1]}
  other:
    - {dataset: shapes, backbone: conv4, learner: [r2d2, prototype], recipe: quick, shots: [2]}
recipes:
  quick: {n_way: 3, n_shot: 1, n_query: 2, meta_batch: 1, epochs: 1, steps_per_epoch: 2,
    validation: {episodes: 4, n_shot: 1, n_query: 2}}
backbones:
  conv4: {filters: 4}
prepare:
  shapes: {base: folder, path: images, image_size: 16}
evaluate: {n_way: 3, n_query: 2, episodes: 20, shots: [1, 2]}
train: {device: cpu}
report: {sheets: false}
"""
RIDGE, PROTOTYPE = "shapes-conv4-ridge-quick", "shapes-conv4-prototype-quick"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose suite `tiny` is finished, with its tables."""
    folder, random = tmp_path_factory.mktemp("finished"), np.random.default_rng(0)
    for split, classes in (("train", 4), ("validation", 3), ("test", 4)):
        for number in range(classes):
            place = folder / "images" / split / f"{split}{number}"
            place.mkdir(parents=True)
            for index in range(6):
                pixels = random.integers(0, 200, (16, 16, 3)) + 2 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["prepare", "shapes"])
        for name in (f"{group}-s{seed}" for group in (RIDGE, PROTOTYPE) for seed in (0, 1)):
            main(["train", name])
            main(["evaluate", name])
        main(["report"])
    return folder


@pytest.fixture
def fewshot(finished, tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in a copy of the project and returns its output; no file may change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)

    def files():
        return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}

    def run(*arguments):
        before = files()
        try:
            main(arguments)
        except SystemExit:
            return capsys.readouterr().err
        finally:
            assert files() == before
        return capsys.readouterr().out

    return run


def test_show_prints_the_table_of_a_suite(fewshot):
    table = Path("results/tables/tiny/results.txt").read_text(encoding="utf-8")
    shown = fewshot("show")
    assert shown == f"suite tiny\n\n{table.rstrip()}\n\nresults/tables/tiny (up to date)\n"
    assert fewshot("show", "tiny") == fewshot("show", "--suite", "tiny") == shown


def test_table_of_earlier_settings_is_called_so(fewshot):
    Path("params.yaml").write_text(PARAMS.replace("steps_per_epoch: 2", "steps_per_epoch: 3"), encoding="utf-8")
    shown = fewshot("show")
    assert "results/tables/tiny (of an earlier run; to update it: snakemake --cores all --config suite=tiny)" in shown
    assert "published" not in fewshot("show", f"{RIDGE}-s0")


def test_table_that_another_suite_moved_to_the_cache_is_shown(fewshot):
    shown = fewshot("show")
    Path("cache/tables").mkdir()
    Path("results/tables/tiny").rename("cache/tables/tiny")
    assert fewshot("show") == shown.replace("results/tables/tiny", "cache/tables/tiny")


@pytest.mark.parametrize("command", ["show", "list"])
def test_two_different_suites_are_refused(fewshot, command):
    message = "error: two suites are given, tiny and --suite other; leave one out\n"
    assert fewshot(command, "tiny", "--suite", "other") == message
    assert "tiny" in fewshot(command, "tiny", "--suite", "tiny")


def test_suite_without_a_table_names_the_command(fewshot):
    assert fewshot("show", "other") == (
        "error: suite other has no table yet; run: snakemake --cores all --config suite=other\n"
    )


def test_card_of_an_experiment(fewshot):
    shown = fewshot("show", f"{RIDGE}-s1")
    [job] = load_plan().of_experiment(f"{RIDGE}-s1")
    assert shown.startswith(
        f"experiment {RIDGE}-s1 of suite tiny\n\ndataset     shapes\nbackbone    conv4 (filters 4)\n"
    )
    assert f"training    {job.train.key}, made, " in shown
    assert shown.count("none published") == 2
    assert f"evaluation  {job.key} on shapes, made\n            results/evaluate/{RIDGE}-s1/{job.key}\n" in shown
    for shot in (1, 2):
        [accuracy] = re.findall(rf"^shapes  3    {shot}     single     ([\d.]+) ± [\d.]+ %  ", shown, re.MULTILINE)
        assert float(accuracy) == pytest.approx(100 * accuracies(f"{RIDGE}-s1", shot).mean(), abs=0.006)


def test_card_says_what_a_step_is_trained_on_and_where_it_starts(fewshot):
    block = "{dataset: shapes, learner: ridge, recipe: quick, init: {learner: four, recipe: images}}"
    recipe = (
        "{batch_size: 8, epochs: 1, steps_per_epoch: 2, validation: {episodes: 4, n_shot: 1, n_query: 2, n_way: 3}}"
    )
    text = PARAMS.replace(
        "recipes:", f"  third: [{{dataset: shapes, learner: four, recipe: images}}, {block}]\nrecipes:"
    )
    text = text.replace(
        "backbones:", f"  images: {recipe}\nlearners: {{four: {{base: classifier, n_classes: 4}}}}\nbackbones:"
    )
    Path("params.yaml").write_text(text, encoding="utf-8")
    start = "shapes-conv4-four-images-s0"
    assert "images: 1 epochs of 2 steps, batches of 8 images, sgd at 0.1\n" in fewshot("show", start)
    card = fewshot("show", "shapes-conv4-ridge-quick-from_four_images-s0")
    assert f"meta-batch 1, 3-way 1-shot, 2 queries per class, sgd at 0.1\ninit        {start}\n" in card


def test_result_that_is_only_in_the_cache_is_shown_from_there(fewshot):
    shutil.rmtree("results/evaluate")
    shown = fewshot("show", f"{RIDGE}-s0")
    [job] = load_plan().of_experiment(f"{RIDGE}-s0")
    assert f"{job.key} on shapes, to restore\n            cache/evaluate/{job.key}/result\n" in shown
    assert "shapes  3    1     single" in shown


def test_experiment_that_has_not_run_is_shown_without_numbers(fewshot):
    shown = fewshot("show", "shapes-conv4-r2d2-quick-s0")
    assert "of suite other" in shown
    assert re.search(r"^training    \w{12}, missing$", shown, re.MULTILINE)
    assert "accuracy" not in shown


def test_unknown_name_is_refused_with_the_closest(fewshot):
    assert "no suite or experiment 'tny'. Did you mean 'tiny'?" in fewshot("show", "tny")
    assert f"experiment '{RIDGE}-s9'. Did you mean '{RIDGE}-s" in fewshot("compare", f"{RIDGE}-s9", RIDGE)


def accuracies(experiment, shot):
    [job] = load_plan().of_experiment(experiment)
    return np.load(job.outputs["arrays"])[f"accuracy/single/{shot}shot"].astype(np.float64)


@pytest.mark.parametrize("shot", [1, 2])
def test_compare_gives_the_paired_difference_its_interval_and_p(fewshot, shot):
    shown = fewshot("compare", f"{RIDGE}-s0", f"{PROTOTYPE}-s0")
    differences = accuracies(f"{RIDGE}-s0", shot) - accuracies(f"{PROTOTYPE}-s0", shot)
    half_width = 2.093024 * differences.std(ddof=1) / np.sqrt(20)  # t quantile 0.975 with 19 degrees of freedom
    [line] = re.findall(rf"^shapes  3    {shot}     single .*$", shown, re.MULTILINE)
    mean, width = map(float, re.search(r"([-+][\d.]+) ± ([\d.]+)", line).groups())
    assert mean == pytest.approx(100 * differences.mean(), abs=0.006)
    assert width == pytest.approx(100 * half_width, abs=0.006)
    assert f"  {stats.sample_estimate(differences).p_value:.4f}  " in line


def test_compare_the_other_way_round_is_the_opposite(fewshot):
    one, other = (
        re.findall(r"([-+][\d.]+) ± ([\d.]+)  ([\d.<]+)", fewshot("compare", *names))
        for names in ((f"{RIDGE}-s0", f"{PROTOTYPE}-s0"), (f"{PROTOTYPE}-s0", f"{RIDGE}-s0"))
    )
    assert len(one) == 2
    assert [(-float(mean), width, p) for mean, width, p in one] == [(float(mean), *rest) for mean, *rest in other]


def test_tests_on_training_classes_are_called_so(fewshot, monkeypatch):
    seen = SeenClasses(("test0",), 4)
    monkeypatch.setattr("fewshot.experiments.experiment.seen_classes", lambda *_: seen)
    assert f" on shapes, made\n            {seen.text}\n" in fewshot("show", f"{RIDGE}-s1")
    shown = fewshot("compare", RIDGE, PROTOTYPE)
    assert f"\n\nA on shapes: {seen.text}.\nB on shapes: {seen.text}.\nAccuracy in %" in shown


def test_name_without_seed_stands_for_all_its_seeds(fewshot):
    shown = fewshot("compare", RIDGE, f"{PROTOTYPE}-s0")
    assert f"A  {RIDGE} (2 seeds)\nB  {PROTOTYPE}-s0 (seed 0)\n" in shown
    mean = 50 * sum(accuracies(f"{RIDGE}-s{seed}", 1).mean() for seed in (0, 1))
    assert f"single     {mean:.2f} ± " in shown
    assert "interval over episodes and seeds" in shown


def test_experiment_without_evaluation_is_named_with_its_command(fewshot):
    assert fewshot("compare", f"{RIDGE}-s0", "shapes-conv4-r2d2-quick-s0") == (
        "error: shapes-conv4-r2d2-quick-s0 is not evaluated on shapes yet; run: snakemake --cores 1 "
        "shapes-conv4-r2d2-quick-s0 --config suite=other\n"
    )


def test_experiments_on_different_episodes_are_not_compared(fewshot, monkeypatch):
    Path("params.yaml").write_text(PARAMS.replace("recipe: quick, shots", "recipe: quick, evaluate.seed: 7, shots"))
    name = "shapes-conv4-prototype-quick-evaluate_seed7-s0"
    assert list(read_params().suites) == ["tiny", "other"]
    main(["prepare", "shapes", "--suite", "other"])
    main(["evaluate", name, "--suite", "other"])
    assert "have no test episodes in common (shapes 3-way 1-shot, shapes 3-way 2-shot; shapes 3-way 2-shot)" in fewshot(
        "compare", f"{PROTOTYPE}-s0", name
    )
