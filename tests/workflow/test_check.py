"""`fewshot check` resolves every suite and prints every mistake of a parameter file."""

import json
from pathlib import Path

import pytest

from fewshot.cli import main
from fewshot.experiments.reader import read_params
from fewshot.workflow.check import check_file
from fewshot.workflow.plan import load_plan

SHIPPED = Path(__file__).parents[2] / "params.yaml"
TWO_SUITES = """\
suite: first
suites:
  first:
    - {dataset: glyphs, backbone: [conv4, pixels], learner: ridge, recipe: quick}
  second:
    - {dataset: glyphs, learner: prototype, recipe: quick, seed: [0, 1]}
    - {dataset: glyphs, learner: ridge, recipe: slow}
recipes:
  quick: {epochs: 1}
  slow: {base: quick, epochs: 2}
"""


@pytest.fixture
def check(project, capsys):
    """Return a function that checks the text of a file and returns (status, lines of output, lines of errors)."""

    def run(text, *arguments):
        (project / "params.yaml").write_text(text, encoding="utf-8")
        try:
            main(["check", *arguments])
            status = 0
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return run


def test_every_shipped_suite_is_resolved():
    checked = check_file(SHIPPED)

    assert checked.problems == ()
    assert [plan.suite for plan in checked.plans] == list(read_params(SHIPPED).suites)


def test_epochs_of_a_schedule_that_are_never_reached_are_noted(check):
    long = TWO_SUITES.replace("{epochs: 1}", "{epochs: 3, schedule: [[1, 0.5], [3, 0.1]]}")

    status, _, notes = check(long)

    assert status == 0
    assert notes == [
        "note: recipes.quick.schedule: the training of 3 epochs never reaches epoch 3 (they count from 0); lower it or "
        "raise epochs"
    ], "recipe slow only inherits the schedule"


def trained_on_cifar_fs(epochs, targets):
    """Return parameters with one experiment, trained on CIFAR-FS and tested on some data sets."""
    block = {"dataset": "cifar_fs", "learner": "ridge", "recipe": "quick", "targets": targets}
    return json.dumps({"suite": "first", "recipes": {"quick": {"epochs": epochs}}, "suites": {"first": [block]}})


def test_test_classes_that_are_training_classes_are_named(check):
    status, _, notes = check(trained_on_cifar_fs(1, ["cifar_fs", "fc100", "omniglot"]))

    assert status == 0
    assert notes == [
        "note: cifar_fs -> fc100: 11 of the 20 tested classes are training classes (bee, boy, caterpillar, cockroach, "
        "dolphin, girl, porcupine, possum, raccoon, seal, skunk); the tables say so, because such a number is not "
        "one of new classes alone"
    ]


def test_an_untrained_model_has_seen_no_class(check):
    assert check(trained_on_cifar_fs(0, ["fc100"]))[2] == []


def test_suite_with_the_keys_of_a_block_is_one_clear_error(check):
    status, _, errors = check(
        TWO_SUITES.replace("second:\n    - {", "third: {").replace(
            "seed: [0, 1]}\n    -", "n_shot: 5}\n  second:\n    -"
        )
    )

    assert status == 2
    assert errors == [
        "error: params.yaml: suites.third: dataset, learner, recipe, n_shot: keys of a block, but a suite consists of "
        "blocks; write a list of blocks, third: [{dataset: ...}], or name the block, third: {my_block: {dataset: ...}}"
    ]


def test_each_suite_is_a_line_with_its_experiments_and_jobs(check):
    assert check(TWO_SUITES) == (
        0,
        [
            "first   2 experiments, 6 jobs (1 prepare, 2 train, 2 evaluate, 1 report)",
            "second  3 experiments, 8 jobs (1 prepare, 3 train, 3 evaluate, 1 report)",
        ],
        [],
    )


def test_one_suite_can_be_chosen(check):
    status, out, _ = check(TWO_SUITES, "--suite", "second")

    assert (status, len(out)) == (0, 1)
    assert out[0].startswith("second")


def test_unknown_suite(check):
    status, _, err = check(TWO_SUITES, "--suite", "secnd")

    assert (status, len(err)) == (2, 1)
    assert "unknown suite 'secnd'; allowed: first, second. Did you mean 'second'?" in err[0]


def test_all_mistakes_are_printed_with_the_suites_that_are_right(check):
    text = TWO_SUITES.replace("seed: [0, 1]", "sede: 1, dropot: 2").replace(
        "learner: ridge, recipe: slow", "recipe: slo"
    )
    text += "evaluate: {n_wya: 3}\nbackbones: {conv4: {filtres: 3}, wide: {base: conv5}}\nprepare: {glyphs: {x: 1}}\n"
    text = text.replace("suite: first", "suite: fist")

    status, out, err = check(text)

    assert (status, out) == (2, [])
    expected = ["suite: unknown suite 'fist'", "second[1].learner: missing key", "evaluate.n_wya: unknown key"]
    assert [words for words in expected if not any(words in line for line in err)] == []

    status, out, err = check(text.replace("{n_wya: 3}", "{}").replace("recipe: slo}", "learner: ridge, recipe: slo}"))

    assert (status, out) == (2, [])
    expected = [
        "suite: unknown suite 'fist'; allowed: first, second. Did you mean 'first'?",
        "suites.second[0]: unknown key 'sede'",
        "suites.second[0]: unknown key 'dropot'",
        "suites.second[1]: unknown recipe 'slo'; allowed: quick, slow. Did you mean 'slow'?",
        "backbones.conv4.filtres: unknown key 'filtres'",
        "backbones.wide.base: unknown backbone 'conv5'",
        "prepare.glyphs.x: unknown key 'x'",
    ]
    assert [words for words in expected if not any(words in line for line in err)] == []
    assert len(err) == len(expected)


def test_a_mistake_in_a_recipe_is_one_line_however_often_it_is_used(check):
    status, _, err = check(
        TWO_SUITES.replace("quick: {epochs: 1}", "quick: {epoch: 1}").replace("seed: [0", "epochs: [0")
    )

    assert (status, len(err)) == (2, 1)
    assert "recipes.quick.epoch: unknown key 'epoch'" in err[0]


def test_a_suite_with_a_mistake_does_not_hide_the_others(check):
    status, out, err = check(TWO_SUITES.replace("learner: ridge, recipe: slow", "recipe: slow"))

    assert status == 2
    assert [line.split()[0] for line in out] == ["first"]
    assert err == ["error: params.yaml: suites.second[1].learner: missing key 'learner'; add it"]


def test_only_check_looks_at_every_combination_of_a_suite_that_is_not_planned(check, project):
    pairs = "learner: [ridge, maml], backbone: [conv4, conv4_maml]"
    text = TWO_SUITES.replace("learner: prototype, recipe: quick, seed: [0, 1]", f"{pairs}, recipe: quick")

    status, _, err = check(text)

    assert status == 2
    assert "suites.second[0]: learner 'maml' adapts the weights of its backbone and needs conv4_maml" in err[0]
    assert load_plan(project / "params.yaml").suite == "first"


def test_files_of_other_suites_need_not_exist_to_plan_one(check, project):
    text = TWO_SUITES.replace("seed: [0, 1]}", "weights: exports/later.safetensors}")

    status, out, err = check(text)

    assert (status, [line.split()[0] for line in out]) == (2, ["first"])
    assert "suites.second[0].weights: 'exports/later.safetensors' is not a file" in err[0]
    assert load_plan(project / "params.yaml").suite == "first"


def test_mistakes_are_not_cut_off(check):
    wrong = ", ".join(f"key{number}: 1" for number in range(50))

    assert len(check(f"{TWO_SUITES}train: {{{wrong}}}\n")[2]) == 50
    assert len(check(TWO_SUITES.replace("seed: [0, 1]", wrong))[2]) == 50


@pytest.mark.parametrize("text", ["", "suites: 3\n", "suite: [a]\nsuites: {a: 3}\nrecipes: 3\n", "suites: {3: 4}\n"])
def test_a_file_without_suites_is_refused_in_lines(check, text):
    status, out, err = check(text)

    assert (status, out) == (2, [])
    assert all("params.yaml: " in line for line in err)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("shots: [1, 5, 1]", "1 occurs more than once in its shots; remove one"),
        ("targets: [glyphs, glyphs]", "'glyphs' occurs more than once in its targets; remove one"),
    ],
)
def test_testing_twice_with_the_same_episodes_is_refused(check, setting, message):
    status, _, errors = check(TWO_SUITES.replace("recipe: slow", f"recipe: slow, {setting}"))
    assert status == 2
    assert len(errors) == 1
    assert errors[0].endswith(f"glyphs-conv4-ridge-slow-s0: {message}")
