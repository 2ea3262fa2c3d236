"""The two workflow tools agree: what one has made the other does not make again, and the table tells the truth.

Contents of tables are compared, never what a tool says of itself.
"""

import pytest

CLEAN = "Data and pipelines are up to date."
RATE = ("ridge: 50.0", "ridge: 20.0")


@pytest.mark.slow
def test_snakemake_then_dvc(made):
    """Bar 1: DVC records what Snakemake made and makes nothing again."""
    before = made.digests()
    assert made.repro().work == made.NOTHING
    assert CLEAN in made.run("dvc status").text
    assert made.digests() == before
    made.check_table()


@pytest.mark.slow
def test_dvc_then_snakemake(fresh, made):
    """Bars 2 and 12: Snakemake finds all that DVC had made; the profile in the project's folder is read."""
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
def test_edits(recorded, tool):
    """Bar 3: each edit of the parameters makes exactly its own work; what was made once is not made again."""
    first_table = recorded.table()

    recorded.edit(*RATE)
    assert recorded.run(tool).work == recorded.chain(recorded.RIDGE)
    recorded.check_table()
    assert recorded.table() != first_table

    recorded.edit(*reversed(RATE))
    back = recorded.run(tool).work
    # DVC's stages had moved the old result out of results/; jobs start to bring it back from cache/, which is quick
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


def test_files_given_by_path(recorded):
    """A changed image changes every key; DVC notices it where dvc.yaml names the folder, and is warned of where not."""
    image = next((recorded.folder / "images").rglob("*.png"))
    image.write_bytes(next(path for path in image.parent.iterdir() if path != image).read_bytes())
    assert any(line.split() == ["modified:", "images"] for line in recorded.run("dvc status").text.splitlines())
    assert all(row["trained"] == "-" for row in recorded.plan())

    assert "does not watch" not in recorded.run("fewshot tidy prepare").text
    recorded.edit(", images]", "]", "dvc.yaml")
    assert "Add it to the deps of stage prepare in dvc.yaml: - images" in recorded.run("fewshot tidy prepare").text
