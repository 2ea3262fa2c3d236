"""Committed evidence: the tables of a run with the settings that produced them; documents embed these files.

docs/evidence/<suite>/results.md, results.csv, differences.csv    copied from results/tables/<suite>
docs/evidence/<suite>/accuracy.svg, learning_curves.svg, one for each setting that the suite varies, and those of the
                                                  inner loop
docs/evidence/<suite>/settings.json               all training settings, machine and versions
<!-- evidence: <suite> --> ... <!-- end of evidence -->    where README.md or a page of docs/ embeds results.md
<!-- rows --> ... <!-- end of rows -->              where one embeds chosen rows, see `chosen_rows`
<!-- coverage --> ... <!-- end of coverage -->              where one embeds what `fewshot coverage` prints, for the
                                                  suites that its table lists; an empty block gets all suites
"""

import platform
import re
import shutil
from pathlib import Path

from fewshot.errors import DataError
from fewshot.experiments.reader import PARAMS_FILE, read_params
from fewshot.files import read_json, write_atomic, write_json
from fewshot.report.coverage import coverage_table
from fewshot.report.sweeps import AXES
from fewshot.workflow.chosen_rows import embed_rows
from fewshot.workflow.plan import Plan
from fewshot.workflow.results import require_result
from fewshot.workflow.tables_state import damaged_tables

EVIDENCE = Path("docs/evidence")
TABLES = ("results.md", "results.csv", "differences.csv", "figures/accuracy.svg")
INNER_LOOP = ("gradient_norm-*", "training_gradient_norm-*", "gamma-*", "accuracy_by_step-*", "feature_similarity-*")
DRAWN_IF_ANY = ("learning_curves", *(axis.name for axis in AXES), *INNER_LOOP)  # patterns of file names
START, END = "<!-- evidence: ", "<!-- end of evidence -->"
BLOCK = re.compile(rf"({START}(\w+) -->\n)(.*?)({END})", re.DOTALL)
COVERAGE_BLOCK = re.compile(r"(<!-- coverage -->\n)(.*?)(<!-- end of coverage -->)", re.DOTALL)
LISTED = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def copy_tables(plan: Plan) -> Path:
    """Copy the tables of a suite, its accuracy figure, learning curves and sweeps to the committed evidence.

    Returns:
        The folder of the evidence.

    Raises:
        DataError: if the tables of the suite or the record of a training are missing or damaged.
    """
    out = EVIDENCE / plan.suite
    rerun = f"run: snakemake --cores all --config suite={plan.suite}"
    if not (plan.tables_dir / "manifest.json").exists():
        raise DataError(f"{plan.tables_dir}: no tables; {rerun}")
    files = [plan.tables_dir / name for name in TABLES]
    files += [file for name in DRAWN_IF_ANY for file in sorted(plan.tables_dir.glob(f"figures/{name}.svg"))]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{', '.join(missing)}: missing; {rerun}")
    if damaged := damaged_tables(plan.tables_dir):
        raise DataError(f"{plan.tables_dir}: changed since they were written: {', '.join(damaged)}; {rerun}")
    for job in plan.train:
        require_result(job, suite=plan.suite, reads=[job.outputs["run"].name])
    runs = {job.key: (job, read_json(job.outputs["run"])) for job in plan.train}
    record = {
        "machine": {"processor": _processor(), **next(iter(runs.values()))[1]["machine"]},
        "training_seconds": {job.name: run.get("seconds") for job, run in runs.values()},
        "experiments": {job.name: runs[job.train.key][1]["train"] for job in plan.evaluate},
        "evaluate": {f"{job.name} on {job.target}": job.settings for job in plan.evaluate},
    }
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, out / file.name)
    write_json(out / "settings.json", record)
    return out


def _processor() -> str:
    """Return the processor's name and number of cores as reported by the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def documents() -> list[Path]:
    """Return the documents that may embed evidence."""
    return [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]


def embed_tables(text: str) -> str:
    """Return the text of a document with the committed table in every evidence block.

    Raises:
        DataError: if a block names missing evidence or is not closed.
    """

    def table(match: re.Match[str]) -> str:
        file = EVIDENCE / match[2] / "results.md"
        if not file.exists():
            raise DataError(
                f"{file}: no such evidence; 'fewshot evidence --take --suite {match[2]}' writes it after a run"
            )
        return f"{match[1]}{file.read_text(encoding='utf-8').rstrip()}\n{match[4]}"

    if any(START in match[3] for match in BLOCK.finditer(text)) or text.count(START) != len(BLOCK.findall(text)):
        raise DataError(f"an evidence block is not closed; write {END!r} on a line of its own after the table")
    return BLOCK.sub(table, text)


def embed_coverage(text: str, params: Path) -> str:
    """Return the text of a document with the coverage of suites of `params` in every coverage block.

    A table keeps to the suites it lists, so that a user's own suites in `experiments/` do not make it out of date.
    """

    def table(match: re.Match[str]) -> str:
        known = read_params(params)
        listed = [suite for suite in LISTED.findall(match[2]) if suite in known.suites]
        return f"{match[1]}{coverage_table(known, listed or None)}\n{match[3]}"

    return COVERAGE_BLOCK.sub(table, text)


def update_documents(*, check: bool, params: Path = PARAMS_FILE) -> list[Path]:
    """Embed the evidence, chosen rows of it and the coverage in the documents, or only compare.

    Args:
        check: change nothing.
        params: the file whose suites are covered.

    Returns:
        The documents that were (or would be) changed.

    Raises:
        DataError: as `embed_tables` and `embed_rows`, naming the document, or if the documents are not here.
    """
    changed = []
    for document in documents():
        try:
            text = document.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise DataError(f"{document}: cannot be read ({reason}); run from a clone of the project") from None
        try:
            wanted = embed_coverage(embed_rows(embed_tables(text), EVIDENCE), params)
        except DataError as error:
            raise DataError(f"{document}: {error}") from None
        if wanted != text:
            changed.append(document)
            if not check:
                write_atomic(document, wanted.encode())
    return changed
