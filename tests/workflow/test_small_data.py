"""A folder of images with too few classes is refused when it is prepared or before training, naming the setting."""

import numpy as np
import pytest
import yaml
from PIL import Image

from fewshot.cli import main

CLASSES = {"train": 4, "validation": 3, "test": 3}


@pytest.fixture
def run(project, capsys, monkeypatch):
    """Return a function that runs a command on a folder of images, with changed ways, and returns its error."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    random = np.random.default_rng(0)
    for split, n_classes in CLASSES.items():
        for label in range(n_classes):
            folder = project / "images" / split / f"{split}{label}"
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")

    def command(*arguments, n_way=3, validation_n_way=None, evaluate_n_way=3):
        validation = {"episodes": 2, "n_shot": 1, "n_query": 1, "n_way": validation_n_way}
        recipe = {"n_way": n_way, "n_shot": 1, "n_query": 1, "meta_batch": 1, "epochs": 1, "steps_per_epoch": 1}
        values = {
            "suite": "tiny",
            "suites": {"tiny": [{"dataset": "mine", "backbone": "pixels", "learner": "prototype", "recipe": "quick"}]},
            "recipes": {"quick": {**recipe, "validation": validation}},
            "prepare": {"mine": {"base": "folder", "path": "images", "image_size": 16}},
            "evaluate": {"n_way": evaluate_n_way, "n_query": 1, "episodes": 4, "shots": [1]},
            "train": {"device": "cpu"},
        }
        (project / "params.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return command


TRAIN = ("train", "mine-pixels-prototype-quick-s0")


def test_test_classes_are_counted_when_the_data_are_prepared(run):
    error = run("prepare", "mine", evaluate_n_way=5)
    assert error == "error: mine: 5 ways requested for evaluation, but split 'test' has 3 classes; lower evaluate.n_way"


def test_training_classes_are_counted_before_training(run):
    error = run(*TRAIN, n_way=5, validation_n_way=2)
    expected = "5 ways requested for training, but split 'train' has 4 classes; lower recipes.quick.n_way"
    assert error == f"error: mine: {expected}"


@pytest.mark.parametrize("ways", [{"n_way": 4}, {"validation_n_way": 4}])
def test_validation_classes_are_counted_before_training(run, ways):
    error = run(*TRAIN, **ways)
    wanted, found = "4 ways requested for validation", "split 'validation' has 3 classes"
    assert error == f"error: mine: {wanted}, but {found}; lower recipes.quick.validation.n_way"
