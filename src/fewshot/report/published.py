"""The numbers published in papers (`published.yaml`), and those this project expects of its own runs (`expected.yaml`).

`published.yaml` follows the papers: a table has rows (methods) and columns (data set and shot). Numbers are matched
with experiments by data set, target, backbone, learner, ways and shots, never by an experiment's name.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from fewshot.settings import Settings

PUBLISHED_FILE = Path(__file__).with_name("published.yaml")
EXPECTED_FILE = Path(__file__).with_name("expected.yaml")

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
        training: name in `trainings`, or one per data set or column; None if the settings are unknown.
        confirmed: false if the number was not read in the source itself.
        interval_confirmed: false if only the mean was read in the source.
        note: remark for the reader.
    """

    n_way: int = 5
    selection: Literal["single", "ensemble"] = "single"
    batch_norm: Literal["running", "transductive", "support", "per_query", "unknown"] = "running"
    train_split: Literal["train", "trainval"] = "train"
    episodes: int | None = None
    interval: Literal["episodes", "predictions", "seeds", "unknown"] = "episodes"
    training: str | Mapping[str, str] | None = None
    confirmed: bool = True
    interval_confirmed: bool = True
    note: str = ""


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
        run_sd_pct: standard deviation between training runs if the source gives it, percentage points.
        seeds: training runs behind the number.
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
        """Source and table."""
        return f"{self.source.title}, {self.table}"


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
        _number(content, table, row, column, value)
        for table in content.tables
        for row in table.rows
        for column, value in zip(table.columns, row.values, strict=True)
        if value != "-"
    )


def _number(content: _PublishedFile, table: _Table, row: _TableRow, column: str, value: Any) -> Published:
    """Return one cell of a published table with the values of its row, column and table."""
    where = _COLUMN.fullmatch(column)
    cell = {"value": value} if isinstance(value, str) else dict(value)
    parsed = _VALUE.fullmatch(cell.pop("value"))
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
    )


@cache
def expected_numbers() -> tuple[Published, ...]:
    """Read `expected.yaml`; () if the file does not exist."""
    return read_expected_file(EXPECTED_FILE) if EXPECTED_FILE.is_file() else ()


def read_expected_file(path: Path) -> tuple[Published, ...]:
    """Read numbers that `fewshot.report.expected` wrote."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(Published.model_validate({**number, "source": content["source"]}) for number in content["numbers"])
