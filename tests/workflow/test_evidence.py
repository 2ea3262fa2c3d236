"""Documents show only the committed tables, and these are copies of the tables of a run."""

import json
from pathlib import Path

import pytest

from fewshot.cli import main
from fewshot.digests import sha256_of
from fewshot.errors import DataError
from fewshot.experiments.params import Params
from fewshot.files import write_json
from fewshot.settings import parse_as
from fewshot.workflow.chosen_rows import embed_rows
from fewshot.workflow.evidence import copy_tables, embed_tables, update_documents
from fewshot.workflow.plan import make_plan

TABLE = "| learner | accuracy |\n| --- | --- |\n| ridge | 50.00 |\n"
DOCUMENT = "# Title\n\n<!-- evidence: tiny -->\n<!-- end of evidence -->\n\nMore.\n"
DRAWN = ("accuracy.svg", "learning_curves.svg", "qp_iterations.svg", "gamma-a.svg", "gamma-b.svg")


@pytest.fixture
def plan(tiny_params):
    return make_plan(parse_as(Params, tiny_params("ridge"), where=""), "tiny")


def finish(plan):
    """Create the files that a finished suite leaves."""
    tables = plan.tables_dir
    (tables / "figures").mkdir(parents=True)
    (tables / "results.md").write_text(TABLE)
    (tables / "results.csv").write_text("learner,accuracy\nridge,0.5\n")
    (tables / "differences.csv").write_text("a,b,difference_pct\n")
    for figure in (*DRAWN, "shots.svg"):
        (tables / "figures" / figure).write_text("<svg/>")
    files = {file.relative_to(tables).as_posix(): sha256_of(file) for file in tables.rglob("*") if file.is_file()}
    write_json(tables / "manifest.json", {"key": "key", "files": files})
    for job in plan.train:
        job.dir.mkdir(parents=True)
        record = {"machine": {"python": "3.11"}, "seconds": 1.5, "train": job.settings}
        write_json(job.outputs["run"], record)


@pytest.fixture
def finished(plan, project):
    """Return the plan of a finished suite."""
    finish(plan)
    (project / "README.md").write_text(DOCUMENT)
    return plan


def test_tables_are_copied_with_their_settings(finished, project):
    folder = copy_tables(finished)
    assert folder.resolve() == project / "docs" / "evidence" / "tiny"
    names = {file.name for file in folder.iterdir()}
    assert names == {"results.md", "results.csv", "differences.csv", "settings.json", *DRAWN}
    assert (folder / "results.md").read_text() == TABLE
    record = json.loads((folder / "settings.json").read_text())
    (name,) = record["experiments"]
    assert record["experiments"][name] == json.loads(json.dumps(finished.train[0].settings))
    assert record["training_seconds"] == {name: 1.5}
    assert record["machine"]["processor"]


def test_experiments_that_share_a_training_are_all_recorded(tiny_params, project):
    values = tiny_params("ridge", **{"evaluate.n_way": [3, 4]})
    plan = make_plan(parse_as(Params, values, where=""), "tiny")
    finish(plan)

    record = json.loads((copy_tables(plan) / "settings.json").read_text())

    assert list(record["training_seconds"]) == ["glyphs-conv4-ridge-quick-s0"]
    assert list(record["experiments"]) == [experiment.name for experiment in plan.experiments]
    assert len(plan.experiments) == 2


def test_changed_tables_are_not_copied(finished):
    (finished.tables_dir / "results.md").write_text(TABLE.replace("50.00", "70.00"))

    with pytest.raises(DataError, match=r"changed since they were written: results\.md; run: snakemake"):
        copy_tables(finished)


def test_document_shows_the_copied_table(finished, project):
    copy_tables(finished)
    assert [str(path) for path in update_documents(check=True)] == ["README.md"]
    assert (project / "README.md").read_text() == DOCUMENT
    assert [str(path) for path in update_documents(check=False)] == ["README.md"]
    assert f"<!-- evidence: tiny -->\n{TABLE}<!-- end of evidence -->\n\nMore.\n" in (project / "README.md").read_text()
    assert update_documents(check=True) == []


def test_changed_number_is_detected_and_corrected(finished, project):
    copy_tables(finished)
    update_documents(check=False)
    right = (project / "README.md").read_text()
    (project / "README.md").write_text(right.replace("50.00", "60.00"))
    assert update_documents(check=True)
    update_documents(check=False)
    assert (project / "README.md").read_text() == right


def test_pages_of_docs_show_evidence_too(finished, project):
    copy_tables(finished)
    update_documents(check=False)
    (project / "docs" / "deep").mkdir()
    (project / "docs" / "deep" / "page.md").write_text(DOCUMENT)
    assert [str(path) for path in update_documents(check=False)] == ["docs/deep/page.md"]


def test_missing_evidence_names_document_and_command(finished):
    with pytest.raises(DataError, match=r"README\.md: .*no such evidence; 'fewshot evidence --take --suite tiny'"):
        update_documents(check=True)


@pytest.mark.parametrize(
    "text", ["<!-- evidence: tiny -->\nno end", "<!-- evidence: a b -->\n<!-- end of evidence -->"]
)
def test_block_that_is_not_closed_is_an_error(project, text):
    with pytest.raises(DataError, match="not closed"):
        embed_tables(text)


def test_second_block_is_not_swallowed_by_an_open_one(finished):
    copy_tables(finished)
    with pytest.raises(DataError, match="not closed"):
        embed_tables("<!-- evidence: tiny -->\n" + DOCUMENT)


CHOSEN = "<!-- rows -->\n| Ridge <!-- tiny a-ridge0.5 --> | all of it |\n<!-- end of rows -->\n"
CHOSEN_ROWS = """\
experiment,train_dataset,target,shot,selection,accuracy_pct,ci95_pct,published_pct,published_ci95_pct,published_confirmed,verdict
a-ridge0.5,a,a,5,single,85.7520,0.4745,,,,
a-ridge0.5,a,a,1,single,71.3520,0.6783,72.60,0.70,quoted,lower
a-ridge0.5,a,a,1,ensemble,81,1,,,,
a-ridge0.5,a,b,1,single,50,1,,,,
a-ridge0.5,a,a,10,single,90,1,,,,
"""


@pytest.fixture
def evidence(project):
    (project / "docs" / "evidence" / "tiny").mkdir(parents=True)
    (project / "docs" / "evidence" / "tiny" / "results.csv").write_text(CHOSEN_ROWS)
    return project / "docs" / "evidence"


def test_chosen_rows_get_the_numbers_of_the_evidence(evidence):
    text = embed_rows(CHOSEN, evidence)
    assert text.splitlines()[-2] == (
        "| Ridge <!-- tiny a-ridge0.5 --> | all of it | 71.4 ± 0.7 | 72.6 ± 0.7 | 85.8 ± 0.5 |  | lower, quoted |"
    )
    assert embed_rows(text, evidence) == text


def test_chosen_row_that_the_evidence_lacks_is_named(evidence):
    with pytest.raises(DataError, match=r"tiny/results.csv has not one row of a-svm for each of 1 and 5 shots"):
        embed_rows(CHOSEN.replace("a-ridge0.5", "a-svm"), evidence)


@pytest.mark.parametrize("line", ["| Ridge <!-- tiny --> | how |", "|R <!-- tiny a --> | how |", "", "| R | how |"])
def test_line_that_names_no_row_is_kept_and_reported(evidence, line):
    with pytest.raises(DataError, match="names no row of the evidence; write"):
        embed_rows(CHOSEN.replace("<!-- end", f"{line}\n<!-- end"), evidence)


def test_block_of_chosen_rows_that_is_not_closed_is_an_error(evidence):
    with pytest.raises(DataError, match="block of chosen rows is not closed"):
        embed_rows(CHOSEN.partition("<!-- end")[0], evidence)


def test_suite_that_has_not_run_cannot_be_copied(plan, project):
    with pytest.raises(DataError, match="no tables; run: snakemake"):
        copy_tables(plan)
    assert not (project / "docs").exists()


def test_incomplete_tables_do_not_change_the_evidence(finished, project):
    copy_tables(finished)
    (finished.tables_dir / "results.md").write_text("other")
    (finished.tables_dir / "figures" / "accuracy.svg").unlink()
    with pytest.raises(DataError, match=r"accuracy\.svg: missing"):
        copy_tables(finished)
    assert (project / "docs" / "evidence" / "tiny" / "results.md").read_text() == TABLE


def test_check_fails_if_a_document_differs(finished, project, tiny_params, capsys):
    (project / "params.yaml").write_text(json.dumps(tiny_params("ridge")))
    main(["evidence", "--take"])
    main(["evidence", "--check"])
    (project / "README.md").write_text(DOCUMENT.replace("Title", "Title\n" + DOCUMENT))
    with pytest.raises(SystemExit) as stopped:
        main(["evidence", "--check"])
    assert stopped.value.code == 2
    assert "README.md: tables differ from docs/evidence" in capsys.readouterr().err


def test_coverage_keeps_to_the_suites_it_lists(tiny_params, project):
    values = tiny_params("ridge")
    (project / "params.yaml").write_text(json.dumps(values))
    (project / "README.md").write_text("<!-- coverage -->\n<!-- end of coverage -->\n")
    update_documents(check=False)
    (project / "params.yaml").write_text(
        json.dumps(values | {"suites": values["suites"] | {"own": values["suites"]["tiny"]}})
    )
    assert update_documents(check=True) == []


def test_document_shows_the_coverage_of_the_suites(tiny_params, project):
    (project / "params.yaml").write_text(json.dumps(tiny_params("ridge")))
    (project / "README.md").write_text("<!-- coverage -->\n<!-- end of coverage -->\n")
    assert update_documents(check=False) == [Path("README.md")]
    lines = (project / "README.md").read_text().splitlines()
    assert lines[3].startswith("| `tiny` |")
    assert update_documents(check=True) == []
    (project / "README.md").write_text("\n".join([*lines[:3], lines[3].replace("tiny", "other"), *lines[4:], ""]))
    assert update_documents(check=True) == [Path("README.md")]
