"""The README's section "As a library": its snippets run, one after the other, and give the shapes they promise."""

import re

import numpy as np
import pytest
from PIL import Image

EXPERIMENT = "glyphs-conv4-ridge-quick-s0"
EXPORT = f"from fewshot.cli import main; main(['export', '{EXPERIMENT}'])"
SHAPES = "print(*(tuple(value.shape) for value in (scores, solution.alpha, logits)), answers, sep='; ')"


@pytest.fixture(scope="module")
def printed(copy_with_weights, run_python, code_blocks):
    """Return the lines that the snippets print, and last the shapes of what they compute."""
    folder = copy_with_weights(EXPERIMENT)
    run_python(folder, "-c", EXPORT)
    for seed, name in enumerate(("a1", "a2", "b1", "b2", "new1", "new2")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    snippets = [text for language, text in code_blocks("README.md", "As a library") if language == "python"]
    return run_python(folder, "-c", "\n".join([*snippets, SHAPES])).splitlines()


def test_snippets_give_the_shapes_they_promise(printed):
    *shapes, answers = printed[-1].split("; ")
    assert shapes == ["(75, 5)", "(25, 5)", "(2, 15, 5)"]
    assert re.fullmatch(r"\['[ab]', '[ab]'\]", answers)


def test_accuracy_on_random_features_is_that_of_guessing(printed):
    accuracy, half_width = map(float, re.fullmatch(r"(\d+\.\d+) ± (\d+\.\d+) %", printed[0]).groups())
    assert 15 < accuracy < 25
    assert 0 < half_width < 5
