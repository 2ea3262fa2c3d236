"""The report of a suite: our numbers with their errors beside the printed ones."""

from pathlib import Path

from fewshot.report.inputs import ReportEntry, ReportSettings, SuiteReport, Summary

__all__ = ["ReportEntry", "ReportSettings", "SuiteReport", "Summary", "write_report"]


def write_report(suite: SuiteReport, out: Path) -> Summary:
    """Write all files of a report into `out`, as `fewshot.report.build.write_report` says.

    Imported when it is called: drawing takes a second to load, and the jobs of other stages need not wait for it.
    """
    from fewshot.report import build

    return build.write_report(suite, out)
