"""Paths, relative to the project folder (except that of the package); defined once, for all modules."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).parent
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
RESULTS = Path("results")  # a plan may use a different root (`--results`, for jobs with remote storage)
CACHE = Path("cache")
FIGURES = CACHE / "figures"  # drawn before, by digest
LOGS = Path("logs")
TESTS = Path("tests")  # within the root of results
EXPORTS = Path("exports")
PROGRESS = "progress.json"  # within the folder of a job in `cache/`

JOB_STAGES = ("prepare", "train", "evaluate")
STAGES = (*JOB_STAGES, "report")


def curves_dir(name: str, key: str) -> Path:
    """Return the folder of the TensorBoard curves of a training."""
    return LOGS / "tensorboard" / f"{name}-{key}"


def log_file(stage: str, name: str, key: str) -> Path:
    """Return the log file of a job."""
    return LOGS / stage / f"{name}-{key}.log"
