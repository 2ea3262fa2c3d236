"""Input of a report, one entry per evaluated model and target as described by the plan, and the summary it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewshot.backbones import BACKBONES
from fewshot.experiments.experiment import Choice, Experiment
from fewshot.experiments.params import Report
from fewshot.learners import LEARNERS
from fewshot.registry import Part

NOWHERE = Path()


@dataclass(frozen=True)
class ReportEntry:
    """One trained model on one target: where its files are and how to make them.

    Attributes:
        experiment: name with the seed, "glyphs-conv4-ridge-s0".
        group: name without the seed; the seeds of a group are averaged.
        recipe: name of the training settings.
        variant: recipe and overrides, as in the experiment's name.
        dataset: trained on.
        target: tested on.
        backbone: registered name with the settings that differ from their defaults, "conv4 (filters 32)".
        learner: likewise.
        seed: training seed.
        evaluation: the evaluation's JSON file; its arrays are in the .npz file next to it.
        train_dir: contains history.csv and run.json.
        prepare_dir: contains the target's frozen episodes.
        store_dir: the target's image store.
        log: log of the job that makes `evaluation`.
        command: shell command that makes this entry.
        damage: what is wrong with its files, if they are missing or changed since they were made; else "".
        seen: how many of its tested classes are training classes, in words; "" if none are known to be.
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
    damage: str = ""
    seen: str = ""

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        target: Choice,
        *,
        evaluation: Path = NOWHERE,
        train_dir: Path = NOWHERE,
        prepare_dir: Path = NOWHERE,
        store_dir: Path = NOWHERE,
        log: Path | None = None,
        command: str = "",
        damage: str = "",
    ) -> "ReportEntry":
        """Return the entry of an experiment on one target; without files, it describes a planned one."""
        return cls(
            experiment=experiment.name,
            group=experiment.group,
            recipe=experiment.recipe_name,
            variant=experiment.variant,
            dataset=experiment.dataset.label,
            target=target.label,
            backbone=described_backbone(experiment.backbone),
            learner=described_learner(experiment.learner),
            seed=experiment.seed,
            evaluation=evaluation,
            train_dir=train_dir,
            prepare_dir=prepare_dir,
            store_dir=store_dir,
            log=log,
            command=command,
            damage=damage,
            seen=experiment.seen_classes(target).text,
        )

    @property
    def arrays(self) -> Path:
        """File of the per-episode arrays."""
        return self.evaluation.with_suffix(".npz")

    @property
    def is_trained(self) -> bool:
        """Whether the training run of the entry is finished."""
        return (self.train_dir / "weights.safetensors").is_file()

    @property
    def exists(self) -> bool:
        """Whether the evaluation is finished and undamaged."""
        return self.evaluation.is_file() and self.arrays.is_file() and not self.damage


def described_backbone(choice: Choice) -> str:
    """Return the registered name and every setting that differs from its default: "conv4 (filters 32)"."""
    return _described(choice, BACKBONES)


def described_learner(choice: Choice) -> str:
    """Return the registered name and every setting that differs from its default: "maml (inner_steps 2)"."""
    return _described(choice, LEARNERS)


def _described(choice: Choice, registry: Mapping[str, Part]) -> str:
    defaults = registry[choice.name].settings().model_dump(mode="json")  # without those recorded only if they differ
    changed = [f"{name} {value}" for name, value in choice.settings.items() if (name, value) not in defaults.items()]
    return f"{choice.name} ({', '.join(changed)})" if changed else choice.name


@dataclass(frozen=True)
class SuiteReport:
    """Everything one report shows.

    Attributes:
        suite: name of the suite.
        key: identity of the report, written into its manifest.
        entries: in the order of the suite.
        settings: section `report` of params.yaml; no number depends on it.
    """

    suite: str
    key: str
    entries: tuple[ReportEntry, ...]
    settings: Report


@dataclass(frozen=True)
class Summary:
    """What the command line prints at the end.

    Attributes:
        text: the tables for a terminal, and what is missing.
        out: the report's folder.
        partial: whether results are missing.
    """

    text: str
    out: Path
    partial: bool
