"""The printed numbers of the papers (`published.yaml`), and those this project expects of itself (`expected.yaml`).

`published.yaml` follows the papers: a table has rows (methods) and columns (data set and shot). A row finds its
experiments by what they are (data set, target, backbone, learner, ways, shots), never by an experiment's name.
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
    """How a printed number was obtained.

    Attributes:
        n_way: classes an episode.
        selection: "ensemble": the logits of several checkpoints were averaged.
        batch_norm: "transductive": the query images of an episode normalise each other.
        train_split: classes trained on.
        episodes: test episodes; None if the source does not say.
        interval: what the printed half width covers; "predictions" ignores that those of an episode are correlated.
        training: name in `trainings`, or one for each data set or column; None if the settings are not known here.
        confirmed: false if the number was not read in the source itself.
        interval_confirmed: false if only the mean was.
        note: what else a reader should know.
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
    """A paper or a page of its authors."""

    title: str
    version: str
    address: str


class _TableRow(BaseModel):
    """A row of a printed table; further keys override the table's protocol."""

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
    """One printed number.

    Attributes:
        source: which paper, and which version of it.
        table: table or place within the source.
        method: name as printed.
        printed_backbone: as printed.
        backbone: registered name and the settings that belong to the number; None if it is not one of ours.
        learner: likewise.
        dataset: trained on.
        target: tested on.
        shot: support images a class.
        accuracy_pct: mean, percent.
        ci95_pct: half width of the interval as printed, percent.
        decimals: with which both are printed.
        protocol: how it was obtained.
        training: recipe values of the source, as far as it states them; None if unknown.
        settings_hash: of the run itself, for a number of `expected.yaml`.
        run_sd_pct: standard deviation between training runs where the source gives it, percent points.
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
    def printed(self) -> str:
        """The number as it is printed, "72.0 ± 0.6"."""
        return " ± ".join(
            f"{value:.{self.decimals}f}" for value in (self.accuracy_pct, self.ci95_pct) if value is not None
        )

    @property
    def printed_mean(self) -> str:
        """The mean as it is printed."""
        return f"{self.accuracy_pct:.{self.decimals}f}"

    @property
    def cited(self) -> str:
        """Where it stands, in a few words."""
        return f"{self.source.title}, {self.table}"


@cache
def published_numbers() -> tuple[Published, ...]:
    """Read `published.yaml`, in the order of the file.

    Raises:
        pydantic.ValidationError: if the file does not have the form above.
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
    """Put one cell of a printed table together with all that stands in its row, column and table."""
    where = _COLUMN.fullmatch(column)
    cell = {"value": value} if isinstance(value, str) else dict(value)
    printed = _VALUE.fullmatch(cell.pop("value"))
    if where is None or printed is None:
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
        accuracy_pct=float(printed["mean"]),
        ci95_pct=float(printed["ci"]) if printed["ci"] else None,
        decimals=len(printed["mean"].partition(".")[2]),
        protocol=protocol,
        training=content.trainings[training] if training else None,
    )


@cache
def expected_numbers() -> tuple[Published, ...]:
    """Read `expected.yaml`; () if this copy of the project has none."""
    return read_expected_file(EXPECTED_FILE) if EXPECTED_FILE.is_file() else ()


def read_expected_file(path: Path) -> tuple[Published, ...]:
    """Read numbers that `fewshot.report.expected` wrote."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(Published.model_validate({**number, "source": content["source"]}) for number in content["numbers"])
