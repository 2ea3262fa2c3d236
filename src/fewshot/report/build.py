"""Write a report: tables, metrics, curves and figures of one suite, complete or not at all."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from fewshot.digests import sha256_of
from fewshot.files import cannot_write, write_json
from fewshot.report import tables
from fewshot.report.adaptation import adaptation_pictures
from fewshot.report.classes import class_pictures, class_tables, read_predictions
from fewshot.report.contents import Contents, describe_missing, read_contents
from fewshot.report.curves import write_curves
from fewshot.report.difference_tables import difference_records
from fewshot.report.figures import result_pictures
from fewshot.report.inputs import SuiteReport, Summary
from fewshot.report.latex import latex
from fewshot.report.page import Shown, page
from fewshot.report.pictures import Picture, save_pictures
from fewshot.report.runtimes import write_runtimes
from fewshot.report.sheets import sheets
from fewshot.report.sweeps import sweep_pictures

MANIFEST = "manifest.json"
# Times and machines differ from run to run, so these files are neither in the manifest nor reproducible.
UNTRACKED = ("report.html", "runtimes.csv")


def write_report(suite: SuiteReport, out: Path, *, allow_missing: bool = False, cache: Path | None = None) -> Summary:
    """Write all files of a report into `out`, replacing its previous content.

    The files are written to a folder next to `out` that takes its place when complete: a failure leaves the old report.

    Args:
        suite: the entries to show.
        out: folder of the report.
        allow_missing: write a partial report from the results that exist, and list what is missing.
        cache: folder of figures drawn before; None draws all.

    Raises:
        DataError: if results are missing and not `allow_missing`, or a result is damaged.
        ResourceError: if the folder cannot be written.
    """
    contents = read_contents(suite, allow_missing=allow_missing)
    text = _summary_text(contents)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "figures").mkdir(parents=True)
        _write_all(contents, text, partial, cache)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Summary(text, out, bool(contents.missing))


def _write_all(contents: Contents, text: str, out: Path, cache: Path | None) -> None:
    _write_tables(contents, out)
    predictions, without = read_predictions(contents)
    drawn = [*pictures(contents), *class_pictures(predictions)]
    digests = save_pictures(drawn, out / "figures", cache)
    episodes = sheets(contents) if contents.suite.settings.sheets else []
    for sheet in episodes:
        (out / "figures" / f"{sheet.name}.svg").write_text(sheet.file, encoding="utf-8")
    shown = Shown(drawn, episodes, class_tables(predictions), without)
    (out / "report.html").write_text(page(contents, shown, out / "figures"), encoding="utf-8")
    (out / "results.txt").write_text(text, encoding="utf-8")
    _write_manifest(contents, digests, out)


def pictures(contents: Contents) -> Iterator[Picture]:
    """Yield every figure of a report in the order of the page."""
    yield from result_pictures(contents)
    yield from sweep_pictures(contents)
    yield from adaptation_pictures(contents)


def _write_tables(contents: Contents, out: Path) -> None:
    _write_records(out / "results.csv", [tables.result_record(cell) for cell in contents.cells])
    _write_records(out / "runs.csv", [tables.run_record(run) for run in contents.runs])
    _write_records(out / "differences.csv", difference_records(contents))
    (out / "results.md").write_text(tables.markdown(contents), encoding="utf-8")
    (out / "results.tex").write_text(latex(contents), encoding="utf-8")
    write_json(out / "metrics.json", tables.metrics(contents.cells))
    write_curves(out / "curves", contents.trainings)
    write_runtimes(contents, out / "runtimes.csv")


def _write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of records with the same keys; without records it has only the column "experiment"."""
    columns = list(records[0]) if records else ["experiment"]
    pandas.DataFrame(list(records), columns=columns, dtype=object).to_csv(path, index=False, lineterminator="\n")


def _write_manifest(contents: Contents, digests: Mapping[str, str], out: Path) -> None:
    """Write the report's key, the digests of its figures, and the SHA-256 of every other file."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in UNTRACKED)
    manifest = {
        "suite": contents.suite.suite,
        "key": contents.suite.key,
        "missing": [f"{entry.experiment} on {entry.target}" for entry in contents.missing],
        "figures": dict(digests),
        "files": {path.relative_to(out).as_posix(): sha256_of(path) for path in files},
    }
    write_json(out / MANIFEST, manifest)


def _summary_text(contents: Contents) -> str:
    parts = [tables.terminal(contents)]
    if contents.missing:
        parts.append(f"This table is partial. Missing:\n{describe_missing(contents.missing)}")
    return "\n\n".join(parts) + "\n"
