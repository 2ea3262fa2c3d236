"""Snakemake's logger plugin `fewshot`: Snakemake finds plugins by the name of their package."""

from fewshot.workflow.run_view import RunView as LogHandler

__all__ = ["LogHandler"]
