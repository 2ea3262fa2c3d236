"""`fewshot prune` lists results that are not needed, and on request deletes only those."""

import pytest

OLD = "ridge: 50.0"


def entries(project):
    """Names of the entries of the cache: <stage>/<key>."""
    return {path.relative_to(project.folder / "cache").as_posix() for path in (project.folder / "cache").glob("*/*")}


@pytest.mark.slow
def test_old_keys_are_pruned(recorded):
    """Old keys are deleted; what a suite, branch or tag needs is kept, unless --ignore-refs is given."""
    made = entries(recorded)
    old_ridge = {f"train/{recorded.train_key(recorded.RIDGE)}"}
    assert "nothing to delete" in recorded.run("fewshot prune").text

    recorded.edit(OLD, "ridge: 20.0")  # only this text needs the new key; the branch records the old one
    recorded.run(f"snakemake --cores 2 {recorded.RIDGE}")
    recorded.edit("ridge: 20.0", "ridge: 10.0")
    listed = recorded.run("fewshot prune").text
    new = entries(recorded) - made
    assert len(new) == 2
    for entry in new:
        stage, key = entry.split("/")
        assert f"cache/{entry}  {recorded.RIDGE}" in listed
        assert f"results/{stage}/{recorded.RIDGE}/{key}" in listed
    assert "nothing was deleted" in listed
    assert not any(f"cache/{entry}" in listed for entry in made)
    assert entries(recorded) == made | new, "a dry run deleted something"

    recorded.run("fewshot prune --delete")
    assert entries(recorded) == made
    assert "nothing to delete" in recorded.run("fewshot prune").text

    forced = recorded.run("fewshot prune --ignore-refs").text
    assert all(f"cache/{entry}" in forced for entry in old_ridge)
    assert recorded.PIXELS not in forced
    for entry in old_ridge:
        assert (recorded.folder / "cache" / entry).is_dir()


def test_prune_refuses_if_needs_are_unknown(recorded):
    """Prune refuses to decide if a suite cannot be planned or a recorded folder is missing."""
    recorded.edit("  other:\n", "  lost:\n    - {dataset: gone, learner: ridge, recipe: quick}\n  other:\n")
    recorded.edit("prepare:\n", "prepare:\n  gone: {base: folder, path: nowhere, image_size: 16}\n")
    refused = recorded.try_run("fewshot prune")
    assert refused.status == 2
    assert "suite 'lost' cannot be planned" in refused.text
    assert "nothing to delete" in recorded.run("fewshot prune --suite tiny").text
    (recorded.folder / "cache/tables/gone").mkdir(parents=True)  # kept by tidy from a deleted suite
    assert "cache/tables/gone" in recorded.run("fewshot prune --suite tiny").text

    for listing in (recorded.folder / ".dvc/cache/files/md5").glob("*/*.dir"):
        listing.unlink()
    refused = recorded.try_run("fewshot prune --suite tiny")
    assert refused.status == 2
    assert "dvc fetch --all-branches" in refused.text
    assert "Traceback" not in refused.text


@pytest.mark.parametrize("suite", ["tiny", "other"])
def test_list(recorded, suite):
    """`fewshot list` shows what exists, how to run the rest, and where the tables are."""
    text = recorded.run(f"fewshot list --suite {suite}").text
    made, missing = (3, 0) if suite == "tiny" else (1, 1)
    assert f"{made + missing} trainings, {made} made{f', {missing} missing' if missing else ''};" in text
    assert ("up to date" in text) == (suite == "tiny")
    assert f"results/tables/{suite}" in text
