"""What a report knows of an experiment before its results are read."""

import pytest

from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.reader import read_params
from fewshot.report.inputs import ReportEntry


def entry(target, recipe="metaoptnet_cifar_fs", **block):
    """Return the entry of an experiment that is trained on CIFAR-FS."""
    block = {"dataset": "cifar_fs", "backbone": "resnet12", "learner": "ridge", "recipe": recipe, **block}
    params = read_params(overrides={"suite": "own", "suites": {"own": [{**block, "targets": [target]}]}})
    (experiment,) = suite_experiments(params, "own")
    [tested] = [choice for choice in experiment.targets if choice.label == target]
    return ReportEntry.of(experiment, tested)


@pytest.mark.parametrize(
    ("target", "recipe", "block", "seen"),
    [
        ("fc100", "metaoptnet_cifar_fs", {}, "11 of the 20 tested classes are training classes"),
        ("fc100", "metaoptnet_cifar_fs", {"epochs": 0}, ""),
        ("cifar_fs", "metaoptnet_cifar_fs", {}, ""),
        ("omniglot", "metaoptnet_cifar_fs", {}, ""),
    ],
)
def test_an_entry_says_how_many_tested_classes_are_training_classes(target, recipe, block, seen):
    assert entry(target, recipe, **block).seen == seen


def test_classes_that_only_the_start_of_a_training_was_trained_on_count_too():
    init = {"learner": "prototype", "recipe": "metaoptnet_cifar_fs_trainval"}
    alone, started = entry("fc100"), entry("fc100", init=init)
    assert int(started.seen.split()[0]) > int(alone.seen.split()[0])
