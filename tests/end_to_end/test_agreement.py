"""The two workflow tools agree: neither repeats the other's work, and the tables are correct.

The contents of tables are compared, not the status reported by a tool.
"""

import re
import shutil

import pytest

CLEAN = "Data and pipelines are up to date."
RATE = ("ridge: 50.0", "ridge: 20.0")


@pytest.mark.slow
def test_snakemake_then_dvc(made):
    """DVC records what Snakemake produced and repeats nothing."""
    before = made.digests()
    assert made.repro().work == made.NOTHING
    assert CLEAN in made.run("dvc status").text
    assert made.digests() == before
    made.check_table()


@pytest.mark.slow
def test_dvc_then_snakemake(fresh, made):
    """Snakemake finds everything that DVC produced, and reads the profile in the project folder."""
    first = fresh.repro()
    assert first.work == fresh.everything
    assert "Using workflow specific profile profiles/default" in first.text
    assert "Nothing to be done" in fresh.run("snakemake -n").text
    again = fresh.snakemake()
    assert again.work == fresh.NOTHING
    assert fresh.digests() == made.digests(), "results differ between two runs of the same suite"
    fresh.check_table()


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["snakemake --cores 2", "dvc repro"])
def test_parameter_edits(recorded, tool):
    """Each edit of the parameters runs exactly the jobs it affects; finished work is never repeated."""
    first_table = recorded.table()

    recorded.edit(*RATE)
    assert recorded.run(tool).work == recorded.chain(recorded.RIDGE)
    recorded.check_table()
    assert recorded.table() != first_table

    recorded.edit(*reversed(RATE))
    back = recorded.run(tool).work
    # DVC's stages had moved the old result out of results/; jobs start only to restore it from cache/, which is quick
    assert back in (recorded.TABLE, recorded.chain(recorded.RIDGE))
    recorded.check_table()
    assert recorded.table() == first_table

    recorded.edit("recipe: untrained}", "recipe: untrained, seed: [0, 1]}")
    assert recorded.run(tool).work == recorded.chain("shapes-pixels-prototype-untrained-s1")
    recorded.check_table()

    recorded.edit(
        "    - {dataset: shapes, backbone: pixels, learner: prototype, recipe: untrained, seed: [0, 1]}\n", ""
    )
    assert recorded.run(tool).work == recorded.TABLE
    recorded.check_table()
    assert set(recorded.table()) == {recorded.PROTOTYPE, recorded.RIDGE}


@pytest.mark.slow
def test_a_suite_of_other_labels_restores_what_is_finished(recorded):
    """Labels train nothing: both tools list restored jobs as such, and record each training once."""
    recorded.edit(
        "  other:\n",
        "  labels:\n"
        "    - {dataset: shapes, backbone: conv4, learner: [ridge, same], recipe: [quick, renamed], n_shot: 1}\n"
        "    - {dataset: shapes, backbone: conv4, learner: ridge, recipe: quick, evaluate.n_way: 2}\n"
        "  other:\n",
    )
    recorded.edit("  slow: {", "  renamed: {base: quick}\n  slow: {")
    recorded.edit("  ridge: {ridge: 50.0}\n", "  ridge: {ridge: 50.0}\n  same: {base: ridge, ridge: 50.0}\n")
    recorded.edit("suite: tiny", "suite: labels")
    shutil.rmtree(recorded.folder / "results")

    planned = dict(re.findall(r"^(\w+) +(\d+)$", recorded.run("snakemake -n").text, re.MULTILINE))
    assert planned == {
        "prepare": "1", "restore_train": "1", "restore_evaluate": "4", "evaluate": "1", "report": "1", "all": "1",
        "total": "9",
    }  # fmt: skip
    listed = recorded.run("fewshot list").text
    assert "5 experiments; 1 training, 1 to restore; 5 evaluations, 4 to restore" in listed
    started = recorded.run("snakemake --cores 2")
    assert re.search(rf"restored +{recorded.RIDGE} ", started.text)
    assert "restored" in next((recorded.folder / "logs/restore").glob("train-*.log")).read_text(encoding="utf-8")
    assert recorded.repro().work == recorded.NOTHING
    assert CLEAN in recorded.run("dvc status").text
    assert [path.name for path in (recorded.folder / "results/train").glob("*")] == [recorded.RIDGE]
    recorded.check_table("labels")


@pytest.mark.slow
def test_suite_in_a_file_of_its_own(recorded):
    """Both tools notice an edit of an included file: Snakemake runs what it affects, and DVC records it."""
    recorded.edit("suite: tiny\n", "suite: mine\ninclude: experiments/mine*.yaml\n")
    block = "{dataset: shapes, backbone: pixels, learner: prototype, recipe: untrained}"
    (recorded.folder / "experiments" / "mine.yaml").write_text(f"suites: {{mine: {{first: {block}}}}}\n")
    assert recorded.repro().work == recorded.TABLE
    assert CLEAN in recorded.run("dvc status").text

    recorded.edit("recipe: untrained}", "recipe: untrained, seed: 1}", "experiments/mine.yaml")

    assert "experiments" in recorded.run("dvc status").text
    assert recorded.snakemake().work == recorded.chain("shapes-pixels-prototype-untrained-s1")
    assert recorded.repro().work == recorded.NOTHING
    assert CLEAN in recorded.run("dvc status").text
    recorded.check_table("mine")


@pytest.mark.slow
def test_changed_setting_without_effect_is_named(recorded):
    assert "Note:" not in recorded.run("snakemake -n").text
    recorded.edit("slow: {base: quick, epochs: 6}", "slow: {base: quick, epochs: 7}")
    assert "Note: no experiment of suite tiny uses recipes.slow" in recorded.run("snakemake -n").text
    assert "Note: no experiment of suite tiny uses recipes.slow" in recorded.repro().text


def test_changed_user_files(recorded):
    """A changed image changes every key; DVC notices it if dvc.yaml names the folder, else `tidy` prints a warning."""
    image = next((recorded.folder / "images").rglob("*.png"))
    image.write_bytes(next(path for path in image.parent.iterdir() if path != image).read_bytes())
    assert any(line.split() == ["modified:", "images"] for line in recorded.run("dvc status").text.splitlines())
    assert all(row["trained"] == "-" for row in recorded.plan())

    assert "does not track" not in recorded.run("fewshot tidy prepare").text
    recorded.edit(", images]", "]", "dvc.yaml")
    assert "Add it to the deps of stage prepare in dvc.yaml: - images" in recorded.run("fewshot tidy prepare").text
