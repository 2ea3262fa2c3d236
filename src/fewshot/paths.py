"""Where everything is, relative to the project folder (the package apart). Every other module asks here."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).parent
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
RESULTS = Path("results")  # `fewshot --results` sets another, for jobs whose files a storage keeps
CACHE = Path("cache")
LOGS = Path("logs")
EXPORTS = Path("exports")

STAGES = ("prepare", "train", "evaluate", "report")


def result_dir(stage: str, name: str, key: str) -> Path:
    """Folder of a job's result."""
    return RESULTS / stage / name / key


def cache_dir(stage: str, name: str, key: str) -> Path:
    """Folder of a job's checkpoints and of the copy of its finished result; belongs to neither workflow tool."""
    return CACHE / stage / name / key


def tables_dir(suite: str) -> Path:
    """Folder of a suite's tables, figures and report."""
    return RESULTS / "tables" / suite


def log_file(stage: str, name: str, key: str) -> Path:
    """Log of a job."""
    return LOGS / stage / f"{name}-{key}.log"
