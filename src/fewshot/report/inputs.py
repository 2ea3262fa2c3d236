"""What a report is made from, one entry for each evaluated model and target as the plan knows it, and what it gives."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from fewshot.settings import Settings


class ReportSettings(Settings):
    """What is drawn; no number depends on it."""

    allow_missing: bool = Field(False, description="make a partial table from what exists, and list what is missing")
    sheets: bool = Field(True, description="draw a sheet of test episodes with right and wrong answers per learner")


@dataclass(frozen=True)
class ReportEntry:
    """One trained model on one target: where its files are, and how they are made.

    Attributes:
        experiment: name with the seed, "glyphs-conv4-ridge-s0".
        group: name without the seed; the seeds of a group are averaged.
        recipe: name of the training settings.
        variant: what else differs from the sibling experiments; "" if nothing.
        dataset: trained on.
        target: tested on.
        backbone: registered name.
        learner: registered name.
        seed: of training.
        evaluation: the evaluation's JSON file; the arrays lie beside it as .npz.
        train_dir: holds history.csv and run.json.
        prepare_dir: holds the target's frozen episodes.
        store_dir: the target's image store.
        log: of the job that makes `evaluation`.
        command: what to type to make this entry.
    """

    experiment: str
    group: str
    recipe: str
    variant: str
    dataset: str
    target: str
    backbone: str
    learner: str
    seed: int
    evaluation: Path
    train_dir: Path
    prepare_dir: Path
    store_dir: Path
    log: Path | None
    command: str

    @property
    def arrays(self) -> Path:
        """The per-episode arrays beside the evaluation."""
        return self.evaluation.with_suffix(".npz")

    @property
    def exists(self) -> bool:
        """Whether the evaluation is finished."""
        return self.evaluation.is_file() and self.arrays.is_file()


@dataclass(frozen=True)
class SuiteReport:
    """Everything one report shows.

    Attributes:
        suite: its name.
        key: identity of the report, written into its manifest.
        entries: in the order of the suite.
        settings: what is drawn.
    """

    suite: str
    key: str
    entries: tuple[ReportEntry, ...]
    settings: ReportSettings


@dataclass(frozen=True)
class Summary:
    """What the command line says in the end.

    Attributes:
        text: the tables for a terminal and what is missing.
        out: the report's folder.
        partial: whether results were missing.
    """

    text: str
    out: Path
    partial: bool


def unique(values: Iterable[str]) -> list[str]:
    """Return the values without repeats, in the order of first appearance."""
    return list(dict.fromkeys(values))
