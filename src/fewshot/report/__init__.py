"""The report of a suite: our numbers with their intervals, next to the published ones."""

from pathlib import Path

from fewshot.report.inputs import ReportEntry, SuiteReport, Summary

__all__ = ["ReportEntry", "SuiteReport", "Summary", "write_report"]


def write_report(suite: SuiteReport, out: Path, *, allow_missing: bool = False, cache: Path | None = None) -> Summary:
    """Write all files of a report into `out`; see `fewshot.report.build.write_report`.

    The drawing modules take a second to import, so they are imported here and not by the jobs of other stages.
    """
    from fewshot.report import build

    return build.write_report(suite, out, allow_missing=allow_missing, cache=cache)
