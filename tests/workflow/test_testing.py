"""`fewshot test`: a finished training under another protocol, printed and kept, without training anything."""

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot import digests
from fewshot.cli import main
from fewshot.datasets.seen_classes import SeenClasses
from fewshot.files import read_json

PARAMS = """\
suite: tiny
suites:
  tiny:
    - {dataset: shapes, backbone: conv4, learner: [svm, prototype], recipe: quick}
recipes:
  quick: {n_way: 3, n_shot: 1, n_query: 2, meta_batch: 1, epochs: 1, steps_per_epoch: 2, validation: {episodes: 0}}
backbones:
  conv4: {filters: 4}
prepare:
  shapes: {base: folder, path: images, image_size: 16}
variants:
  iterations_1: {head_settings: {solver: truncated, max_iterations: 1}}
  ridge_head: {head: ridge}
evaluate: {n_way: 3, n_query: 2, episodes: 20, shots: [1]}
train: {device: cpu}
"""
SVM = "shapes-conv4-svm-quick-s0"


@pytest.fixture
def trained(project):
    """Make a project with one finished training."""
    random = np.random.default_rng(0)
    for split, classes in (("train", 4), ("validation", 3), ("test", 5)):
        for number in range(classes):
            place = project / "images" / split / f"{split}{number}"
            place.mkdir(parents=True)
            for index in range(6):
                pixels = random.integers(0, 60, (16, 16, 3)) + 40 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    (project / "params.yaml").write_text(PARAMS)
    main(["train", SVM])
    return project


@pytest.fixture
def tested(trained, monkeypatch, capsys):
    """Return a function that runs `fewshot test`, during which no optimiser may step, and returns its lines."""

    def refuse(*_, **__):
        raise AssertionError("something was trained")

    def run(*arguments):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", refuse)
            main(["test", *arguments])
        return [line for line in capsys.readouterr().out.splitlines() if "%" in line and "±" in line]

    return run


def test_line_says_how_many_tested_classes_were_training_classes(tested, monkeypatch):
    seen = SeenClasses(("train0",), 4)
    monkeypatch.setattr("fewshot.experiments.experiment.seen_classes", lambda *_: seen)
    [line] = tested(SVM)
    assert line.endswith(f" % (20 episodes; {seen.text})")


def test_variants_ways_shots_and_episodes_are_printed_and_kept(tested, trained):
    lines = tested(SVM, "--variant", "as_trained,iterations_1,ridge_head", "--shots", "1,2", "--ways", "4")
    assert [re.match(r"(.*?): [\d.]+ ± [\d.]+ % \(20 episodes\)", line)[1] for line in lines] == [
        f"{SVM} on shapes, 4-way {shot}-shot, {variant}"
        for variant in ("as_trained", "iterations_1", "ridge_head")
        for shot in (1, 2)
    ]
    kept = sorted(trained.glob("results/tests/evaluate/*/*/shapes.json"))
    assert len(kept) == 3
    assert {str(read_json(file)["changes"]) for file in kept} == {
        "{}",
        "{'head': 'ridge'}",
        "{'head_settings': {'max_iterations': 1, 'solver': 'truncated'}}",
    }
    assert not (trained / "results/evaluate").exists(), "results of suites are left alone"


def test_a_training_is_found_by_its_key(tested, trained):
    key = next(trained.glob(f"results/train/{SVM}/*")).name
    assert tested(key[:6], "--episodes", "10") == tested(SVM, "--episodes", "10")


def test_each_variant_is_computed_as_it_says(tested, trained):
    tested(SVM, "--variant", "as_trained,iterations_1,ridge_head")
    residuals = {}
    for file in trained.glob("results/tests/evaluate/*/*/shapes.json"):
        with np.load(file.with_suffix(".npz")) as arrays:
            name = str(read_json(file)["changes"].get("head_settings", read_json(file)["changes"]))
            residuals[name] = arrays.get("certificate/1shot/kkt_residual")
    assert residuals["{}"].max() < 1e-6, "the optimum, as trained"
    assert residuals["{'max_iterations': 1, 'solver': 'truncated'}"].min() > 1e-4, "stopped early"
    assert residuals["{'head': 'ridge'}"] is None, "closed form"


def test_prune_lists_and_deletes_both_copies_of_a_test(tested, trained, capsys):
    tested(SVM, "--variant", "ridge_head")
    (kept,) = trained.glob("results/tests/evaluate/*/*")
    key = kept.name
    main(["prune", "--delete", "--ignore-refs"])
    listed = capsys.readouterr().out
    assert f"cache/evaluate/{key}" in listed
    assert f"results/tests/evaluate/{SVM.replace('-s0', '-ridge_head-s0')}/{key}" in listed
    assert not kept.exists()
    assert not (trained / "cache/evaluate" / key).exists()
    assert list(trained.glob(f"results/train/{SVM}/*/weights.safetensors")), "what the suite needs stays"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes-conv4-svm-quick-s1"], "Did you mean 'shapes-conv4-svm-quick-s0'"),
        (["shapes-conv4-prototype-quick-s0"], "not trained yet; run: snakemake"),
        ([SVM, "--variant", "ridge_hed"], "Did you mean 'ridge_head'"),
        ([SVM, "--ways", "1"], "evaluate.n_way"),
        ([SVM, "--ways", "6"], "6"),
        ([SVM, "--target", "shape"], "Did you mean 'shapes'"),
        ([SVM, "--shots", "1,1"], "1 occurs more than once in its shots; remove one"),
        ([SVM, "--target", "shapes,shapes"], "'shapes' occurs more than once in its targets; remove one"),
        ([SVM, "--shots", "1,x"], "argument --shots: '1,x' is not allowed: give numbers, such as 1,5"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(trained, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["test", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_verify_reads_a_file_again_whose_times_are_unchanged(trained, monkeypatch, capsys):
    def test_again(*arguments):
        digests._saved.cache_clear()
        digests._file_digest.cache_clear()
        capsys.readouterr()
        main(["test", SVM, *arguments])
        return "restored from" in capsys.readouterr().err

    monkeypatch.setenv(digests.ALWAYS_READ, "")  # the option sets it for the rest of the process
    test_again("--episodes", "10")
    weights = next(trained.glob(f"results/train/{SVM}/*/weights.safetensors"))
    times, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert not test_again("--episodes", "11")
    assert test_again("--episodes", "12", "--verify")
