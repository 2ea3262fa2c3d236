"""The report of a suite: our numbers with their errors beside the printed ones."""

from fewshot.report.build import Summary, write_report
from fewshot.report.inputs import ReportEntry, ReportSettings, SuiteReport

__all__ = ["ReportEntry", "ReportSettings", "SuiteReport", "Summary", "write_report"]
