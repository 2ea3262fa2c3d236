"""Files that params.yaml includes: their entries, and the file that a message names."""

import json
import re
from pathlib import Path

import pytest

from fewshot.cli import main
from fewshot.errors import ParamsError
from fewshot.experiments.reader import read_files, read_params
from fewshot.workflow.plan import load_plan

MINE = {"suites": {"mine": {"ridge": {"dataset": "glyphs", "learner": "ridge", "recipe": "quick"}}}}


@pytest.fixture
def write(project, tiny_params):
    """Return a function that writes params.yaml with an `include`, and files of a folder `experiments`."""

    def files(include="experiments/*.yaml", **texts) -> Path:
        (project / "params.yaml").write_text(json.dumps({**tiny_params(), "include": include}), encoding="utf-8")
        for name, values in texts.items():
            file = project / "experiments" / f"{name}.yaml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        return Path("params.yaml")

    return files


def test_entries_of_all_files_are_one_set_of_parameters(write):
    second = {"suites": {"second": MINE["suites"]["mine"]}, "recipes": {"long": {"base": "quick", "epochs": 9}}}
    params = read_params(write(mine=MINE, more=second))
    assert list(params.suites) == ["tiny", "mine", "second"]
    assert list(params.recipes) == ["quick", "long"]
    assert [job.name for job in load_plan(suite="mine").evaluate] == ["glyphs-conv4-ridge-quick-s0"]


def test_suite_has_the_same_keys_in_whichever_file_it_is(write, project, tiny_params):
    path = write(mine={"suites": {"mine": tiny_params()["suites"]["tiny"]}})
    keys = [[job.key for job in load_plan(path, suite=suite).evaluate] for suite in ("tiny", "mine")]
    assert keys[0] == keys[1]


def test_include_may_be_a_list_or_left_out(write, project, tiny_params):
    path = write(["experiments/mine.yaml", "experiments/m*.yaml"], mine=MINE)
    assert read_files(path).included == [Path("experiments/mine.yaml")]
    path.write_text(json.dumps(tiny_params()), encoding="utf-8")
    assert list(read_params(path).suites) == ["tiny"]


def test_pattern_may_match_nothing_but_a_path_must_exist(write):
    assert read_files(write()).included == []
    with pytest.raises(ParamsError, match=r"params.yaml: include: 'experiments/mine.yaml' is not a file"):
        read_files(write("experiments/mine.yaml"))


@pytest.mark.parametrize("wrong", [3, None, [3], "", [""], {"a": 1}, True])
def test_include_of_another_type_is_refused(write, wrong):
    with pytest.raises(ParamsError, match=r"params\.yaml: include: "):
        read_params(write(wrong))


def test_patterns_are_relative_to_the_parameter_file(write, project, monkeypatch):
    write(mine=MINE)
    monkeypatch.chdir("experiments")
    assert list(read_params(project / "params.yaml").suites) == ["tiny", "mine"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"learner": "rigde"}, "experiments/mine.yaml: suites.mine.ridge: unknown learner 'rigde'"),
        ({"recipe": None}, "experiments/mine.yaml: suites.mine.ridge.recipe: null is not allowed"),
        ({"n_shto": 3}, "experiments/mine.yaml: suites.mine.ridge: unknown key 'n_shto'"),
    ],
)
def test_message_names_the_file_of_the_mistake(write, entry, message):
    block = {**MINE["suites"]["mine"]["ridge"], **entry}
    with pytest.raises(ParamsError, match=f"^{message}"):
        load_plan(write(mine={"suites": {"mine": {"ridge": block}}}))


def test_message_names_the_file_of_a_name_that_is_not_allowed(write):
    with pytest.raises(ParamsError, match=r"^experiments/mine.yaml: suites.My-suite: 'My-suite' is not allowed"):
        read_params(write(mine={"suites": {"My-suite": MINE["suites"]["mine"]}}))


def test_mistakes_of_several_files_are_all_reported(write):
    recipes = {"recipes": {"long": {"epochs": -1}}}
    with pytest.raises(ParamsError) as error:
        load_plan(write(mine={"suites": {"mine": [{"learner": "ridge", "recipe": "quick"}]}}, more=recipes))
    assert "experiments/mine.yaml: suites.mine[0].dataset: missing key 'dataset'; add it" in str(error.value)


def test_name_may_be_defined_once(write):
    with pytest.raises(ParamsError, match=r"experiments/more.yaml: suites.mine: also in experiments/mine.yaml; rename"):
        read_files(write(mine=MINE, more=MINE))
    with pytest.raises(ParamsError, match=r"experiments/mine.yaml: recipes.quick: also in params.yaml; rename"):
        read_files(write(mine={"recipes": {"quick": {}}}, more={}))


@pytest.mark.parametrize("section", ["suite", "evaluate", "train", "report", "include"])
def test_single_settings_belong_to_the_parameter_file(write, section):
    with pytest.raises(ParamsError, match=rf"experiments/mine.yaml: {section}: .*set this in params.yaml"):
        read_files(write(mine={section: {}}))


def test_unknown_section_gets_the_closest_allowed_one(write):
    with pytest.raises(ParamsError, match=r"experiments/mine.yaml: sutes: .*allowed: suites, .* Did you mean 'suites'"):
        read_files(write(mine={"sutes": {}}))


@pytest.mark.parametrize("wrong", [None, [], 3, "text"])
def test_included_file_without_sections_is_told_those_it_may_have(write, wrong):
    sections = "suites, recipes, learners, backbones, prepare, variants"
    with pytest.raises(ParamsError, match=rf"experiments/mine.yaml: must consist of sections \({sections}\), not "):
        read_files(write(mine=wrong))


@pytest.mark.parametrize("pattern", ["experiments", "exp*"])
def test_included_folder_is_refused(write, pattern):
    with pytest.raises(ParamsError, match=rf"params.yaml: include: '{re.escape(pattern)}' matches experiments, which"):
        read_files(write(pattern, mine=MINE))


@pytest.mark.parametrize("wrong", [None, [], 3, "text"])
def test_included_section_without_names_is_refused(write, wrong):
    with pytest.raises(ParamsError, match=r"experiments/mine.yaml: suites: .* should be a section of named entries"):
        read_files(write(mine={"suites": wrong}))


def test_check_goes_through_the_suites_of_all_files(write, capsys):
    write(mine=MINE)
    main(["check"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tiny", "mine"]
