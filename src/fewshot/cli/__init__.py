"""The command `fewshot`: one subcommand per stage, and others to inspect results and clean up.

Starts without importing torch; subcommands that compute import it after setting the number of threads
(`computing.import_jobs`). Each module adds the subcommands whose work it starts: `jobs`, `results` and `project`.
"""

from fewshot.cli.command_line import main

__all__ = ["main"]
