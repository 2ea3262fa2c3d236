"""`fewshot bundle` and `fewshot unbundle`: the same keys on both machines, and results that are verified."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot import digests
from fewshot.digests import path_digest
from fewshot.errors import DataError, FewshotError, ParamsError
from fewshot.sharing.bundle_script import write_parts
from fewshot.workflow.bundle import Target, make_bundle, take_results
from fewshot.workflow.identity import package_versions
from fewshot.workflow.plan import load_plan
from fewshot.workflow.results import HASHES, run_job

PARAMS = """\
suite: tiny
suites:
  tiny:
    - {dataset: shapes, backbone: conv4, learner: [ridge, prototype], recipe: quick}
recipes:
  quick: {n_way: 3, n_shot: 1, n_query: 2, meta_batch: 1, epochs: 1, steps_per_epoch: 2, validation: {episodes: 0}}
backbones:
  conv4: {filters: 4}
prepare:
  shapes: {base: folder, path: images, image_size: 16}
evaluate: {n_way: 3, n_query: 2, episodes: 20, shots: [1]}
train: {device: cpu}
"""
RIDGE = "shapes-conv4-ridge-quick-s0"
HERE = Target(wheels=(), part_bytes=100_000)


@pytest.fixture
def plan(project):
    """Return the plan of a project with small images."""
    random = np.random.default_rng(0)
    for split, classes in (("train", 4), ("validation", 3), ("test", 3)):
        for path in [project / "images" / split / f"{split}{n}" / f"{i}.png" for n in range(classes) for i in range(5)]:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    (project / "params.yaml").write_text(PARAMS)
    return load_plan()


def run_elsewhere(*arguments):
    """Run the script of a bundle with nothing of this project on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "bundle/run.py", "--into", "work", "--out", "out", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_what_another_machine_computed_is_finished_here(project, plan):
    summary = make_bundle(plan, [RIDGE], Path("params.yaml"), Path("bundle"), HERE)
    assert "1 training and 1 evaluation, " in summary
    shutil.move("images", "not-sent")
    said = run_elsewhere()
    shutil.move("not-sent", "images")
    assert "2 of 2 jobs finished" in said
    assert "took 2 results and 0 checkpoints; suite tiny: 2 of 4" in take_results(plan, Path("out"))
    training = plan.find("train", RIDGE)
    assert run_job(training, lambda out, checkpoints: pytest.fail("trained again")) == "restored"
    assert all(file.exists() for file in plan.of_experiment(RIDGE)[0].outputs.values())
    assert "took 0 results" in take_results(plan, Path("out"))  # they are here already


@pytest.mark.slow
def test_a_bundle_brings_what_is_finished_here(project, plan):
    make_bundle(plan, [RIDGE], Path("params.yaml"), Path("bundle"), HERE)
    run_elsewhere()
    take_results(plan, Path("out"))
    shutil.rmtree("work")
    make_bundle(plan, [RIDGE], Path("params.yaml"), Path("bundle"), HERE)
    assert "exit 0: restored" in run_elsewhere()


def test_a_training_follows_those_it_starts_from(project, plan):
    block = "- {dataset: shapes, learner: ridge, recipe: quick, init: {learner: svm, recipe: quick}}"
    (project / "params.yaml").write_text(PARAMS.replace("recipes:", f"    {block}\nrecipes:"))
    started = "shapes-conv4-ridge-quick-from_svm_quick-s0"
    make_bundle(load_plan(), [RIDGE, started], Path("params.yaml"), Path("bundle"), HERE)
    chains = json.loads(Path("bundle/bundle.json").read_text())["chains"]
    assert [[name for name, _ in chain["train"]] for chain in chains] == [
        [RIDGE],
        ["shapes-conv4-svm-quick-s0", started],
    ]
    assert [[name for name, *_ in chain["evaluate"]] for chain in chains] == [[RIDGE], [started]]


def test_unknown_experiments_are_refused(project, plan):
    with pytest.raises(ParamsError, match="no evaluate job 'rigde'"):
        make_bundle(plan, ["rigde"], Path("params.yaml"), Path("bundle"), HERE)
    assert not Path("bundle").exists()


def test_wheels_outside_the_lock_file_are_refused(project, plan):
    (project / "requirements.lock").write_text("pydantic==2.0.0\n")
    with pytest.raises(ParamsError, match=r"--wheels: 'pidantic' is not in requirements\.lock"):
        make_bundle(plan, [], Path("params.yaml"), Path("bundle"), Target(wheels=("pidantic",)))


def test_failed_downloads_are_explained(project, plan, monkeypatch):
    (project / "requirements.lock").write_text("no-such-package-of-anyone==1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    target = Target(wheels=("no-such-package-of-anyone",))
    with pytest.raises(FewshotError, match=r"wheels for Python 3.12 cannot be downloaded: .* --wheels none"):
        make_bundle(plan, [], Path("params.yaml"), Path("bundle"), target)


@pytest.fixture
def finished(project, plan):
    """Return the folder of a result that another machine packed."""
    job = plan.find("train", RIDGE)

    def pack(key=job.key, weights="trained"):
        run_job(job, lambda out, checkpoints: (out / "weights.safetensors").write_text("trained"))
        entry = Path("there/train", key)
        shutil.copytree(job.cache_dir, entry)
        (entry / "result" / "weights.safetensors").write_text(weights)
        shutil.rmtree("cache")
        shutil.rmtree(job.dir)
        Path("out").mkdir()
        files = [(file, file.relative_to("there")) for file in sorted((entry / "result").rglob("*")) if file.is_file()]
        contents = write_parts(files, Path("out"), "results", 10_000)
        Path("out/results.json").write_text(json.dumps({"suite": "tiny", "archives": {"results": contents}}))
        return Path("out")

    return pack


def test_results_of_another_suite_are_told_apart(plan, finished):
    folder = finished()
    record = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**record, "suite": "other"}))
    assert take_results(plan, folder).endswith("; the bundle is of suite other, whose state --suite other shows")


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"suite": "tiny"}'])
def test_record_of_something_else_is_refused(plan, tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=r"results.json: not what run.py wrote; copy all files"):
        take_results(plan, tmp_path)


def test_results_are_verified_and_restored(plan, finished):
    assert "took 1 result and 0 checkpoints" in take_results(plan, finished())
    assert (plan.find("train", RIDGE).dir / HASHES).is_file()


def test_changed_results_are_refused(plan, finished):
    with pytest.raises(DataError, match="damaged"):
        take_results(plan, finished(weights="altered"))
    assert not plan.find("train", RIDGE).dir.exists()


def test_results_of_another_key_are_refused(plan, finished):
    with pytest.raises(DataError, match="train/0123456789ab: the result belongs to another key"):
        take_results(plan, finished(key="0123456789ab"))


def test_missing_parts_are_named(plan, finished):
    folder = finished()
    (folder / "results-1.part").unlink()
    with pytest.raises(DataError, match=r"results-1.part: missing; copy all files"):
        take_results(plan, folder)


@pytest.fixture
def unfinished(plan):
    """Return the folder of a checkpoint that another machine packed, and the key of its training."""
    key = plan.find("train", RIDGE).key
    file = Path("there/train", key, "checkpoints/checkpoint.pt")
    file.parent.mkdir(parents=True)
    file.write_text("state")
    Path("out").mkdir()
    contents = write_parts([(file, file.relative_to("there"))], Path("out"), "checkpoints", 100_000)
    Path("out/results.json").write_text(json.dumps({"suite": "tiny", "archives": {"checkpoints": contents}}))
    return Path("out"), key


def test_checkpoints_are_taken_to_be_resumed(plan, unfinished):
    folder, key = unfinished
    assert "took 0 results and 1 checkpoint;" in take_results(plan, folder)
    assert Path("cache/train", key, "checkpoints/checkpoint.pt").read_text() == "state"


def test_checkpoints_may_stay_behind(plan, unfinished):
    folder, key = unfinished
    (folder / "checkpoints-1.part").unlink()
    assert "took 0 results and 0 checkpoints" in take_results(plan, folder)
    assert not Path("cache/train", key).exists()


def test_checkpoints_of_a_finished_training_are_not_taken(plan, unfinished):
    folder, _ = unfinished
    run_job(plan.find("train", RIDGE), lambda out, checkpoints: (out / "weights.safetensors").write_text("trained"))
    assert "took 0 results and 0 checkpoints" in take_results(plan, folder)


def test_recorded_digests_and_versions_stand_for_what_was_not_sent(project):
    Path("data").mkdir()
    Path("data/recorded.json").write_text('{"files": {"far/away": "abc"}, "packages": {"fonttools": "0.0"}}')
    for cached in (digests._read_recorded, package_versions):
        cached.cache_clear()
    try:
        assert path_digest(Path("far/away")) == "abc"
        assert package_versions(("fonttools",)) == {"fonttools": "0.0"}
        with pytest.raises(DataError, match="no such file or folder"):
            path_digest(Path("far/away/else"))
    finally:
        Path("data/recorded.json").unlink()
        for cached in (digests._read_recorded, package_versions):
            cached.cache_clear()
