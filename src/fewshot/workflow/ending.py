"""What a run ends with: the table of its suite and the places of the files, also if nothing was to be done."""

import logging
from collections.abc import Callable

from fewshot.workflow.plan import Plan
from fewshot.workflow.tables_state import stamp_file

NOTHING_TO_DO = "Nothing to be done"  # how Snakemake begins to say so


def table_text(plan: Plan) -> str:
    """Return the table of a suite and where its files are; "" unless it is up to date."""
    text = plan.tables_dir / "results.txt"
    if not (text.exists() and stamp_file(plan).exists()):
        return ""
    return (
        f"\n{text.read_text(encoding='utf-8').rstrip()}\n\n"
        f"Report: {plan.tables_dir / 'report.html'}  (also results.csv .md .tex, runs.csv, figures/, curves/)"
    )


class TableIfNothingToDo(logging.Filter):
    """Adds the table of a suite to Snakemake's message that nothing is to be done; shows every message.

    Args:
        table: returns the text to add.
    """

    def __init__(self, table: Callable[[], str]) -> None:
        super().__init__()
        self.table = table

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the table."""
        if record.getMessage().startswith(NOTHING_TO_DO):
            record.msg, record.args = f"{record.getMessage()}\n{self.table()}".rstrip(), ()
        return True
