"""The two workflow tools agree: neither repeats the other's work, and the tables are correct.

The contents of tables are compared, not the status reported by a tool.
"""

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


def test_changed_user_files(recorded):
    """A changed image changes every key; DVC notices it if dvc.yaml names the folder, else `tidy` prints a warning."""
    image = next((recorded.folder / "images").rglob("*.png"))
    image.write_bytes(next(path for path in image.parent.iterdir() if path != image).read_bytes())
    assert any(line.split() == ["modified:", "images"] for line in recorded.run("dvc status").text.splitlines())
    assert all(row["trained"] == "-" for row in recorded.plan())

    assert "does not track" not in recorded.run("fewshot tidy prepare").text
    recorded.edit(", images]", "]", "dvc.yaml")
    assert "Add it to the deps of stage prepare in dvc.yaml: - images" in recorded.run("fewshot tidy prepare").text
