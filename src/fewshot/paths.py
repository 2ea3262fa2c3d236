"""Where everything is, relative to the project folder (the package apart). Every other module asks here."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).parent
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
RESULTS = Path("results")  # unless a plan is made for another root (`--results`, for jobs whose files a storage keeps)
CACHE = Path("cache")
LOGS = Path("logs")
EXPORTS = Path("exports")

STAGES = ("prepare", "train", "evaluate", "report")


def log_file(stage: str, name: str, key: str) -> Path:
    """Log of a job."""
    return LOGS / stage / f"{name}-{key}.log"
