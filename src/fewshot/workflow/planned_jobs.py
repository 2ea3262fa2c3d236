"""The jobs of a plan: what each one computes, from what, and the paths of its results."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fewshot import paths
from fewshot.digests import digest
from fewshot.episodes.form import EpisodeForm
from fewshot.experiments.experiment import Choice, Draw, Experiment

Identity = dict[str, Any]


@dataclass(frozen=True)
class EpisodeList:
    """A frozen list of test episodes; a list with fewer episodes or shots is a prefix of it."""

    split: str
    form: EpisodeForm
    seed: int
    episodes: int

    @classmethod
    def of(cls, experiment: Experiment) -> "EpisodeList":
        """Return the list that an experiment is tested on."""
        protocol = experiment.evaluate
        return cls(protocol.split, experiment.test_form, protocol.seed, protocol.episodes)

    @property
    def file_name(self) -> str:
        """Name of the file in the data set's `results/prepare` folder."""
        return f"episodes-{self.split}-{self.form.n_way}way-{self.form.n_query}query-seed{self.seed}.npz"

    def joined(self, other: "EpisodeList") -> "EpisodeList":
        """Return the shortest list of which this one and `other`, with the same file name, are prefixes."""
        form = replace(self.form, n_shot=max(self.form.n_shot, other.form.n_shot))
        return replace(self, form=form, episodes=max(self.episodes, other.episodes))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One result to compute; it depends on nothing but its identity.

    Attributes:
        identity: settings, data and code that determine the result, as plain values by section; stored with it.
        results: root folder of results.
    """

    identity: Identity = field(repr=False)
    results: Path

    stage: ClassVar[str]

    @property
    def name(self) -> str:
        """Name of the data set, training or experiment: a label, which no key depends on."""
        raise NotImplementedError

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that exist once the job is finished."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """Digest of the identity."""
        return digest(self.identity)

    @property
    def dir(self) -> Path:
        """Folder of the result."""
        return self.results / self.stage / self.name / self.key

    @property
    def cache_dir(self) -> Path:
        """Folder of the job's checkpoints and of the copy of its result; neither workflow tool manages it."""
        return paths.CACHE / self.stage / self.key

    @property
    def progress_file(self) -> Path:
        """File in which the job says how far it is while it runs."""
        return self.cache_dir / paths.PROGRESS


@dataclass(frozen=True, kw_only=True)
class PrepareJob(Job):
    """Raw files -> verified store, contact sheet and frozen episode lists of one data set.

    Attributes:
        dataset: the data set.
        lists: the frozen episode lists that the suite's evaluations read.
        draws: what the suite's experiments draw from it; its classes must have enough images.
    """

    dataset: Choice
    lists: tuple[EpisodeList, ...]
    draws: tuple[Draw, ...] = ()

    stage = "prepare"

    @property
    def name(self) -> str:
        """Label of the data set."""
        return self.dataset.label

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that exist once the job is finished."""
        return {"manifest": self.dir / "manifest.json"}

    @cached_property
    def data_key(self) -> str:
        """Digest of what determines the pixels; the only part of the key that training depends on."""
        return digest(self.identity["data"])

    @property
    def store_dir(self) -> Path:
        """Folder of the arrays, which neither workflow tool manages."""
        return paths.PREPARED / self.name / self.data_key

    @property
    def raw_dir(self) -> Path:
        """Folder of downloaded files, shared by data sets built from the same archive."""
        return paths.RAW

    @property
    def downloads(self) -> bool:
        """Whether there is anything to download: the data set has mirrors and the user gave no path."""
        return "mirrors" in self.dataset.settings and self.dataset.settings["path"] is None

    @property
    def download_record(self) -> Path:
        """File that lists the downloads."""
        return self.raw_dir / f"{self.name}-{self.data_key}.json"


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Episodes -> trained learner.

    Attributes:
        experiment: the first experiment of the suite that uses it.
        prepare: the data set it trains on.
        init: the training whose backbone it starts from, or None.
    """

    experiment: Experiment
    prepare: PrepareJob
    init: "TrainJob | None" = None

    stage = "train"

    @property
    def name(self) -> str:
        """Name of the training."""
        return self.experiment.training_name

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that exist once the job is finished."""
        names = {"weights": "weights.safetensors", "run": "run.json", "history": "history.csv"}
        return {key: self.dir / name for key, name in names.items()}

    @property
    def devices(self) -> int:
        """Processes that share the training; one where nothing is trained."""
        recipe = self.experiment.recipe
        return recipe.devices if recipe.epochs and self.experiment.weights is None else 1

    @property
    def chain(self) -> "tuple[TrainJob, ...]":
        """This training and those it starts from, the latest first."""
        return (self, *(() if self.init is None else self.init.chain))

    @property
    def inputs(self) -> tuple[Job, ...]:
        """Jobs whose results it reads."""
        return (self.prepare, *([] if self.init is None else [self.init]))

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the training apart from code and data."""
        settings: dict[str, Any] = self.identity["settings"]
        return settings


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Job):
    """A trained learner on the frozen episodes of one target, at all shots.

    Attributes:
        experiment: the experiment it belongs to.
        train: the training it evaluates, which other experiments may share.
        prepare: the data set it tests on.
    """

    experiment: Experiment
    train: TrainJob
    prepare: PrepareJob

    stage = "evaluate"

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.experiment.name

    @property
    def target(self) -> str:
        """Label of the data set it tests on."""
        return self.prepare.name

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that exist once the job is finished."""
        return {"json": self.dir / f"{self.target}.json", "arrays": self.dir / f"{self.target}.npz"}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the evaluation apart from the trained model, code and data."""
        settings: dict[str, Any] = self.identity["settings"]
        return settings

    @property
    def episodes(self) -> EpisodeList:
        """The frozen list this job reads (a prefix of the file's)."""
        return EpisodeList.of(self.experiment)
