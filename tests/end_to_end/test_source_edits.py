"""An edit of the source changes the keys of what it can change, and of nothing else."""

import pytest


def keys(project):
    """Key of every job, and whether the tables are those of the plan."""
    rows = project.plan()
    current = "(up to date)" in project.run("fewshot list").text
    return {row["experiment"]: (row["train_key"], row["key"]) for row in rows}, current


def append(project, module, text):
    path = project.folder / "src" / "fewshot" / module
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def changed(before, after):
    """Experiments whose model, and whose evaluation, would be made anew."""
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
        ("cli.py", MEANING, "", "", True),
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
    """A comment in the loop makes nothing; an edited head retrains only what uses it."""
    append(recorded, "training/train.py", "\n# a comment\n")
    assert recorded.repro().work == recorded.NOTHING
    append(recorded, "heads/ridge.py", MEANING)
    assert recorded.snakemake().work == recorded.chain(recorded.RIDGE)
    recorded.check_table()
    assert recorded.repro().work == recorded.NOTHING
