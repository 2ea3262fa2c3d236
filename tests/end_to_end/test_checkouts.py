"""Checkouts, clones and experiments of git and DVC restore old states: tables stay correct and nothing is lost."""

import json
import shutil

import pytest

RATE, OTHER, THIRD = "ridge: 50.0", "ridge: 20.0", "ridge: 30.0"
CLEAN = "Data and pipelines are up to date."


def trained_at(project, experiment):
    """Time at which the training of the model in the current plan started."""
    row = next(row for row in project.plan() if row["experiment"] == experiment)
    return json.loads(project.read(f"{row['train_dir']}/run.json"))["started"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "link", ["copy", pytest.param("hardlink", marks=pytest.mark.long), pytest.param("symlink", marks=pytest.mark.long)]
)
def test_clone_pull_and_edit(recorded, tmp_path, link):
    """A clone with pulled results is up to date, however DVC links files; an edit runs only its own jobs."""
    recorded.run(f"dvc remote add -q -d shelf {tmp_path / 'shelf'}")
    recorded.run(f"dvc config cache.type {link}")
    recorded.commit("remote")
    recorded.run("dvc push -q")
    recorded.run(f"git clone -q {recorded.folder} {tmp_path / 'clone'}")
    clone = type(recorded)(tmp_path / "clone")
    clone.run("dvc pull -q")
    some = clone.folder / "results/tables/tiny/results.csv"
    assert some.is_symlink() == (link == "symlink")
    assert clone.digests() == recorded.digests()

    assert "Nothing to be done" in clone.run("snakemake -n").text
    assert CLEAN in clone.run("dvc status").text
    before = clone.table()
    clone.edit(RATE, OTHER)
    finished = clone.repro()
    assert finished.work == clone.chain(clone.RIDGE)
    clone.check_table()
    assert clone.table() != before
    assert "Nothing to be done" in clone.run("snakemake -n").text


@pytest.mark.slow
def test_older_outputs_and_misplaced_stamps_are_detected(recorded):
    """Older outputs with newer parameters, and a stamp next to older tables, are detected."""
    first, first_table = recorded.run("git rev-parse HEAD").text.strip(), recorded.table()
    recorded.edit(RATE, OTHER)
    recorded.repro()
    recorded.commit("other rate")
    other_table = recorded.table()
    stamp = next((recorded.folder / "results/tables/tiny").glob(".key-*"))
    assert other_table != first_table

    recorded.run(f"git checkout -q {first}")
    recorded.run("dvc checkout -q -f")
    assert recorded.table() == first_table
    recorded.check_table()

    stamp.touch()  # as a manual checkout leaves it
    recorded.edit(RATE, OTHER)
    recorded.repro()
    recorded.check_table()
    assert recorded.table() == other_table


@pytest.mark.slow
def test_experiments_lose_nothing(recorded):
    """`dvc exp run`, `exp apply` and `checkout -f` restore what was recorded; other finished work is kept in cache/."""
    recorded.edit(RATE, THIRD)
    recorded.run(f"snakemake --cores 2 {recorded.RIDGE}")  # finished, but DVC has not recorded it
    unrecorded = trained_at(recorded, recorded.RIDGE)
    recorded.run("git checkout -q params.yaml")

    ran = recorded.run("dvc exp run -q -n rate20 -S learners.ridge.ridge=20.0")
    assert ran.work == recorded.chain(recorded.RIDGE)
    recorded.check_table()
    rate20, rate20_table = trained_at(recorded, recorded.RIDGE), recorded.table()
    shown = recorded.run("dvc exp show --csv").text
    assert "rate20" in shown

    recorded.run("git checkout -q .")
    recorded.run("dvc checkout -q -f")
    recorded.check_table()
    assert not any((recorded.folder / "results/train" / recorded.RIDGE).glob("*.partial"))

    recorded.edit(RATE, THIRD)
    recorded.snakemake()
    assert trained_at(recorded, recorded.RIDGE) == unrecorded, "finished work was recomputed"
    recorded.check_table()

    recorded.run("git checkout -q .")
    recorded.run("dvc exp apply -q rate20")
    assert OTHER in recorded.read("params.yaml")
    recorded.snakemake()
    assert trained_at(recorded, recorded.RIDGE) == rate20
    assert recorded.table() == rate20_table
    recorded.check_table()


@pytest.mark.slow
def test_suites_take_turns(recorded):
    """Switching suites runs shared experiments once; DVC records exactly the suite of params.yaml."""
    made = recorded.snakemake("--config suite=other")
    assert made.work == recorded.chain("shapes-conv4-ridge-slow-s0")
    recorded.check_table("other")
    recorded.edit("suite: tiny", "suite: other")
    assert recorded.repro().work <= recorded.chain("shapes-conv4-ridge-slow-s0")
    assert [path.name for path in (recorded.folder / "results/tables").iterdir()] == ["other"]
    assert {path.name for path in (recorded.folder / "results/train").iterdir()} == {
        "shapes-conv4-ridge-quick-s0",
        "shapes-conv4-ridge-slow-s0",
    }
    times = {name: trained_at(recorded, name) for name in ("shapes-conv4-ridge-quick-s0", "shapes-conv4-ridge-slow-s0")}
    recorded.edit("suite: other", "suite: tiny")
    recorded.repro()
    recorded.check_table()
    assert trained_at(recorded, recorded.RIDGE) == times[recorded.RIDGE]


def test_timestamps_are_ignored(recorded):
    for folder in ("src", "results", "workflow", "images"):
        for path in (recorded.folder / folder).rglob("*"):
            path.touch()
    (recorded.folder / "params.yaml").touch()
    assert "Nothing to be done" in recorded.run("snakemake -n").text
    assert CLEAN in recorded.run("dvc status").text


@pytest.mark.slow
def test_lost_outputs_are_restored(recorded):
    """Files deleted from results/ are restored from cache/, byte-identical and without computing."""
    before = recorded.digests()
    shutil.rmtree(recorded.folder / "results")
    trained = {path: path.stat().st_mtime_ns for path in (recorded.folder / "cache/train").rglob("*.safetensors")}
    recorded.snakemake()
    assert recorded.digests() == before
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
