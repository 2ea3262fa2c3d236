"""An edit to the source changes only the keys of the results it can change."""

import pytest


def keys(project):
    """Key of every job, and whether the tables are up to date."""
    rows = project.plan()
    current = "(up to date)" in project.run("fewshot list").text
    return {row["experiment"]: (row["train_key"], row["key"]) for row in rows}, current


def append(project, module, text):
    path = project.folder / "src" / "fewshot" / module
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def changed(before, after):
    """Experiments that would be retrained, and those that would be reevaluated."""
    trained = {name for name in before if before[name][0] != after[name][0]}
    evaluated = {name for name in before if before[name][1] != after[name][1]}
    return trained, evaluated


MEANING = "\n\nADDED = 1\n"


@pytest.mark.parametrize(
    ("module", "text", "retrained", "reevaluated", "table_stays"),
    [
        ("training/train.py", "\n# a comment\n", "", "", True),
        ("heads/ridge.py", "\n# nothing\n", "", "", True),
        ("workflow/plan.py", MEANING, "", "", True),
        ("cli/results.py", MEANING, "", "", True),
        ("workflow/prune.py", MEANING, "", "", True),
        ("report/figures.py", MEANING, "", "", False),
        ("report/published.py", MEANING, "", "", False),
        ("heads/svm.py", MEANING, "", "", True),
        ("heads/ridge.py", MEANING, "ridge", "ridge", False),
        ("backbones/pixels.py", MEANING, "pixels", "pixels", False),
        ("evaluation/evaluate.py", MEANING, "", "prototype ridge pixels", False),
        ("training/train.py", MEANING, "prototype ridge pixels", "prototype ridge pixels", False),
        ("datasets/glyphs.py", MEANING, "", "", True),
        ("datasets/folder.py", MEANING, "prototype ridge pixels", "prototype ridge pixels", False),
    ],
)
def test_keys(made, module, text, retrained, reevaluated, table_stays):
    names = {"prototype": made.PROTOTYPE, "ridge": made.RIDGE, "pixels": made.PIXELS}
    before, _ = keys(made)
    append(made, module, text)
    after, current = keys(made)
    assert changed(before, after) == (
        {names[word] for word in retrained.split()},
        {names[word] for word in reevaluated.split()},
    )
    assert current == table_stays


@pytest.mark.slow
def test_both_tools_follow(recorded):
    """A comment in the loop runs nothing; an edited head retrains only what uses it."""
    append(recorded, "training/train.py", "\n# a comment\n")
    assert recorded.repro().work == recorded.NOTHING
    append(recorded, "heads/ridge.py", MEANING)
    explained = recorded.run(f"fewshot explain {recorded.RIDGE}").text
    (change,) = explained.partition("changes of train since ")[2].partition("\n\n")[0].splitlines()[1:]
    assert change.startswith("  module fewshot.heads.ridge: ")
    assert recorded.snakemake().work == recorded.chain(recorded.RIDGE)
    recorded.check_table()
    assert recorded.repro().work == recorded.NOTHING
