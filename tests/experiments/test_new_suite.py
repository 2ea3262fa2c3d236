"""`fewshot new`: the written suite is the experiment it starts from, and its comments show settings as they are."""

import json
import re

import pytest

from fewshot.cli import main
from fewshot.errors import ParamsError
from fewshot.experiments.new_suite import write_suite
from fewshot.experiments.reader import read_files
from fewshot.workflow.plan import load_plan


@pytest.fixture
def values(tiny_params):
    values = tiny_params(
        "ridge", seed=[0, 1], variants=["as_trained", "by_mean"], episodes=30, **{"learner.ridge": 7.0}
    )
    values["variants"] = {"by_mean": {"head": "prototype"}}
    values["suites"]["family"] = [
        {"dataset": "glyphs", "backbone": "conv4_maml", "learner": ["maml", "cxgrad"], "recipe": "quick", "n_shot": 1}
    ]
    values["suites"]["images"] = [
        {"dataset": "glyphs", "backbone": "conv4", "learner": "classifier", "recipe": "images"}
    ]
    values["suites"]["from_images"] = [
        {
            "dataset": "glyphs",
            "learner": "ridge",
            "recipe": "quick",
            "init": {"learner": "classifier", "recipe": "images", "image_size": 16},
        }
    ]
    values["recipes"]["images"] = {"batch_size": 8, "epochs": 1, "validation": values["recipes"]["quick"]["validation"]}
    return values | {"include": "experiments/*.yaml"}


@pytest.fixture
def written(project, values):
    """Return a function that writes params.yaml, then the suite `mine`, and returns its file."""

    def write(like, name="mine", **changes):
        (project / "params.yaml").write_text(json.dumps(values | changes), encoding="utf-8")
        return write_suite(read_files(), name, like)

    return write


LIKE = [
    "glyphs-conv4-ridge-quick-ridge7.0-s1",
    "glyphs-conv4-ridge-quick-ridge7.0-by_mean-s0",
    "glyphs-conv4_maml-maml-quick-1shot-s0",
    "glyphs-conv4_maml-cxgrad-quick-1shot-s0",
    "glyphs-conv4-classifier-images-s0",
    "glyphs-conv4-ridge-quick-from_classifier_images-image_size16-s0",
]


@pytest.mark.parametrize("like", LIKE)
def test_new_suite_is_the_experiment_with_its_keys(written, values, like):
    written(like)
    [new] = load_plan(suite="mine").evaluate
    original = next(job for suite in values["suites"] for job in load_plan(suite=suite).evaluate if job.name == like)
    assert (new.name, new.key) == (like, original.key)


@pytest.mark.parametrize("like", LIKE)
def test_every_setting_in_a_comment_is_the_one_in_use(written, like):
    file = written(like)
    text, key = file.read_text(encoding="utf-8"), load_plan(suite="mine").evaluate[0].key
    settings = re.findall(r"^      # ([\w.]+: .*)$", text, re.MULTILINE)

    assert len(settings) > 20
    assert any(setting.startswith("weights: null") for setting in settings)
    for setting in settings:
        file.write_text(text.replace(f"# {setting}", setting), encoding="utf-8")
        assert load_plan(suite="mine").evaluate[0].key == key, setting


def test_unknown_experiment_is_refused_with_the_closest(written):
    with pytest.raises(ParamsError, match=r"'glyphs-conv4-ridge-quik-ridge7.0-s1'. Did you mean 'glyphs-conv4-ridge-q"):
        written("glyphs-conv4-ridge-quik-ridge7.0-s1")


@pytest.mark.parametrize("name", ["Mine", "my suite", "../mine", "", "-mine"])
def test_name_of_a_suite_is_checked(written, name):
    with pytest.raises(ParamsError, match=r"consists of a-z, 0-9 and _"):
        written(LIKE[0], name)


def test_existing_file_or_suite_is_kept(written):
    before = written(LIKE[0]).read_text(encoding="utf-8")
    with pytest.raises(ParamsError, match=r"experiments/mine.yaml: there is a suite or file 'mine' already"):
        written(LIKE[1])
    with pytest.raises(ParamsError, match=r"params.yaml: there is a suite or file 'family' already"):
        written(LIKE[1], "family")
    assert (before, "mine") == ((read_files().included[0]).read_text(encoding="utf-8"), read_files().included[0].stem)


def test_file_that_would_not_be_read_is_not_written(written, project):
    with pytest.raises(ParamsError, match=r"experiments/mine.yaml would not be read; add the line: include: exper"):
        written(LIKE[0], include="own/*.yaml")
    assert not (project / "experiments").exists()


def test_the_command_says_what_to_do_next(written, capsys):
    written(LIKE[0])
    main(["new", "second", "--like", LIKE[2]])
    assert capsys.readouterr().out == ("wrote experiments/second.yaml\nedit it, then: fewshot list --suite second\n")
