"""The numbers published in papers (`published.yaml`), and those this project expects of its own runs (`expected.yaml`).

`published.yaml` follows the papers: a table has rows (methods) and columns (data set and shot). Numbers are matched
with experiments by data set, target, backbone, learner, ways and shots, never by an experiment's name.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fewshot.settings import Settings

Reading = Literal["paper", "program"]

PUBLISHED_FILE = Path(__file__).with_name("published.yaml")
EXPECTED_FILE = Path(__file__).with_name("expected.yaml")

RANDOM_WEIGHTS = "random weights"

_VALUE = re.compile(r"(?P<mean>\d+\.?\d*)(?: ± (?P<ci>\d+\.?\d*))?")
_COLUMN = re.compile(r"(?P<dataset>\w+)(?: -> (?P<target>\w+))? (?P<shot>\d+)-shot")


class Protocol(Settings):
    """How a published number was obtained.

    Attributes:
        n_way: classes per episode.
        selection: "ensemble": the logits of several checkpoints were averaged.
        batch_norm: "transductive": the query images of an episode are normalised together.
        train_split: classes trained on.
        episodes: test episodes; None if the source does not say.
        interval: what the published half width covers; "predictions" ignores their correlation within an episode.
        solver_iterations: iterations after which the QP solver was stopped in the test; None: optimum or closed form.
        augmented_support: number of random augmentations of each support image that the classifier is fitted to in the
            test; 0: the image as it is.
        start: the learner whose training the weights come from before this one.
        training: name in `trainings`, or one per data set or column; None if the settings are unknown.
        confirmed: "source" if the number was read in the source itself, "quoted" if in the text named by `quoted_by`,
            "unread" if in neither.
        quoted_by: the paper or README that quotes the number.
        interval_confirmed: false if only the mean was read.
        note: remark for the reader.
    """

    n_way: int = 5
    selection: Literal["single", "ensemble"] = "single"
    batch_norm: Literal["running", "transductive", "support", "per_query", "unknown"] = "running"
    train_split: Literal["train", "trainval"] = "train"
    episodes: int | None = None
    interval: Literal["episodes", "predictions", "seeds", "unknown"] = "episodes"
    solver_iterations: int | None = None
    augmented_support: int = 0
    start: str = RANDOM_WEIGHTS
    training: str | Mapping[str, str] | None = None
    confirmed: Literal["source", "quoted", "unread"] = "source"
    quoted_by: str = ""
    interval_confirmed: bool = True
    note: str = ""

    @model_validator(mode="after")
    def _names_who_quotes(self) -> "Protocol":
        if self.confirmed == "quoted" and not self.quoted_by:
            raise ValueError("`confirmed: quoted` needs `quoted_by`, the paper or README that quotes the number")
        return self


class Source(Settings):
    """A paper or a web page of its authors."""

    title: str
    version: str
    address: str


class _TableRow(BaseModel):
    """A row of a published table; additional keys override the table's protocol."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    printed_backbone: str
    backbone: Mapping[str, Any] | None = None
    learner: Mapping[str, Any] | None = None
    values: tuple[str | Mapping[str, Any], ...]
    as_released: Mapping[str, Any] | None = None

    def readings(self) -> "Iterator[tuple[Reading, _TableRow]]":
        """Yield the row as the paper describes it and, if that differs, as the authors' program computes it."""
        yield "paper", self
        if self.as_released is not None:
            described = self.model_dump(exclude={"as_released"})
            yield "program", _TableRow.model_validate({**described, **self.as_released})


class _Table(Settings):
    source: str
    table: str
    columns: list[str]
    protocol: Mapping[str, Any] = Field(default_factory=dict)
    rows: list[_TableRow]


class _PublishedFile(Settings):
    sources: dict[str, Source]
    trainings: dict[str, Mapping[str, Any]]
    tables: list[_Table]


class StoredEpisodes(Settings):
    """Where the accuracies per episode of an expected number are stored.

    Attributes:
        file: the .npz file next to `expected.yaml`.
        array: name of the array with the correct predictions of each episode, summed over the seeds.
        predictions: predictions per episode, of all seeds together.
        episodes_hash: hash of the episodes.
    """

    file: str
    array: str
    predictions: int
    episodes_hash: str


class Published(Settings):
    """One published number.

    Attributes:
        source: the paper and its version.
        table: table or section of the source.
        method: name of the method in the source.
        printed_backbone: name of the backbone in the source.
        backbone: registered name and the settings that belong to the number; None if the project does not have it.
        learner: likewise.
        dataset: trained on.
        target: tested on.
        shot: support images per class.
        accuracy_pct: mean, percent.
        ci95_pct: half width of the published interval, percentage points.
        decimals: decimals of both in the source.
        protocol: how it was obtained.
        training: recipe values of the source, as far as it states them; None if unknown.
        settings_hash: hash of the run's training settings, for a number of `expected.yaml`.
        run_sd_pct: standard deviation of the means of single training runs if the source gives it, percentage points.
        seeds: training runs behind the number.
        reading: whether the settings are those the paper describes or those of the authors' program. Where they differ,
            the same number is listed once with each.
        episodes: accuracies per episode, for a number of `expected.yaml`.
        time_ms: published time per episode, milliseconds; "" if there is none.
    """

    source: Source
    table: str
    method: str
    printed_backbone: str
    backbone: Mapping[str, Any] | None
    learner: Mapping[str, Any] | None
    dataset: str
    target: str
    shot: int
    accuracy_pct: float
    ci95_pct: float | None
    decimals: int = 2
    protocol: Protocol
    training: Mapping[str, Any] | None = None
    settings_hash: str | None = None
    run_sd_pct: float | None = None
    seeds: int = 1
    reading: Reading = "paper"
    episodes: StoredEpisodes | None = None
    time_ms: str = ""

    @property
    def text(self) -> str:
        """The number as published, "72.0 ± 0.6"."""
        return " ± ".join(
            f"{value:.{self.decimals}f}" for value in (self.accuracy_pct, self.ci95_pct) if value is not None
        )

    @property
    def mean_text(self) -> str:
        """The mean as published, "72.0"."""
        return f"{self.accuracy_pct:.{self.decimals}f}"

    @property
    def cited(self) -> str:
        """Source and table, and who quotes them."""
        quoted = f", {self.quoted}" if self.quoted else ""
        return f"{self.source.title}, {self.table}{quoted}"

    @property
    def quoted(self) -> str:
        """Who quotes the number, "quoted by NPBML, table 2"; "" if it was read in the source itself, or nowhere."""
        return f"quoted by {self.protocol.quoted_by}" if self.protocol.confirmed == "quoted" else ""


@cache
def published_numbers() -> tuple[Published, ...]:
    """Read `published.yaml`, in the order of the file.

    Raises:
        pydantic.ValidationError: if the file does not match the types above.
        ValueError: if a value or a column cannot be read.
    """
    raw = yaml.safe_load(PUBLISHED_FILE.read_text(encoding="utf-8"))
    content = _PublishedFile.model_validate(raw)
    return tuple(
        _number(content, table, row, reading, column, value)
        for table in content.tables
        for printed in table.rows
        for reading, row in printed.readings()
        for column, value in zip(table.columns, row.values, strict=True)
        if value != "-"
    )


def _number(
    content: _PublishedFile, table: _Table, row: _TableRow, reading: Reading, column: str, value: Any
) -> Published:
    """Return one cell of a published table with the values of its row, column and table."""
    where = _COLUMN.fullmatch(column)
    cell = {"value": value} if isinstance(value, str) else dict(value)
    parsed = _VALUE.fullmatch(cell.pop("value"))
    time_ms = cell.pop("time_ms", "")
    if where is None or parsed is None:
        raise ValueError(
            f"{PUBLISHED_FILE.name}: {table.source} {table.table}, {row.method}: cannot read {column!r}, {value!r}"
        )
    protocol = Protocol.model_validate({**table.protocol, **(row.model_extra or {}), **cell})
    stated = protocol.training or {}
    training = stated if isinstance(stated, str) else stated.get(column, stated.get(where["dataset"]))
    return Published(
        source=content.sources[table.source],
        table=table.table,
        method=row.method,
        printed_backbone=row.printed_backbone,
        backbone=row.backbone,
        learner=row.learner,
        dataset=where["dataset"],
        target=where["target"] or where["dataset"],
        shot=int(where["shot"]),
        accuracy_pct=float(parsed["mean"]),
        ci95_pct=float(parsed["ci"]) if parsed["ci"] else None,
        decimals=len(parsed["mean"].partition(".")[2]),
        protocol=protocol,
        training=content.trainings[training] if training else None,
        reading=reading,
        time_ms=time_ms,
    )


@cache
def expected_numbers() -> tuple[Published, ...]:
    """Read `expected.yaml`; () if the file does not exist."""
    return read_expected_file(EXPECTED_FILE) if EXPECTED_FILE.is_file() else ()


def episodes_file(numbers: Path) -> Path:
    """Return the file of accuracies per episode that belongs to a file of expected numbers."""
    return numbers.with_suffix(".npz")


def read_expected_file(path: Path) -> tuple[Published, ...]:
    """Read numbers that `fewshot.report.expected` wrote."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(_expected_number(number, content["source"], episodes_file(path)) for number in content["numbers"])


def _expected_number(number: Mapping[str, Any], source: Mapping[str, str], file: Path) -> Published:
    stored = {"episodes": {**number["episodes"], "file": str(file)}} if "episodes" in number else {}
    return Published.model_validate({**number, **stored, "source": source})
