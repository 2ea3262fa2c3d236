"""Paths, relative to the project folder (except that of the package). All other modules take them from here."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).parent
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
RESULTS = Path("results")  # a plan may have another root (`--results`, for jobs whose files live in a storage)
CACHE = Path("cache")
LOGS = Path("logs")
EXPORTS = Path("exports")

STAGES = ("prepare", "train", "evaluate", "report")


def log_file(stage: str, name: str, key: str) -> Path:
    """Return the log file of a job."""
    return LOGS / stage / f"{name}-{key}.log"
