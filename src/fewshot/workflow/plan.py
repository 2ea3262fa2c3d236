"""Experiments -> jobs with keys and paths. The Snakefile, the command line and the tests all ask here.

A key is a digest of all that decides a job's result; it stands in the path, so "up to date" means "the file exists".
Importing or making a plan writes nothing and imports neither torch nor pandas.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot import paths
from fewshot.backbones import BACKBONES
from fewshot.datasets import DATASETS, DatasetPart
from fewshot.digests import digest, path_digest
from fewshot.episodes.form import EpisodeForm
from fewshot.errors import ParamsError, did_you_mean, locate_errors
from fewshot.experiments.matrix import Choice, Experiment, suite_experiments
from fewshot.experiments.params import Params
from fewshot.experiments.reader import PARAMS_FILE, read_params
from fewshot.learners import LEARNERS
from fewshot.paths import PACKAGE_DIR
from fewshot.workflow.identity import code_digest, package_versions

REPORT_DIR = PACKAGE_DIR / "report"
REPORT_TEXTS = (".yaml", ".css", ".js", ".jinja")

# The common loop of each stage; the registries add the modules of the parts that a job uses.
STAGE_MODULES = {
    "prepare": ("fewshot.datasets.store",),
    "lists": ("fewshot.episodes.frozen",),
    "train": ("fewshot.training.train",),
    "evaluate": ("fewshot.evaluation.evaluate",),
    "report": ("fewshot.report",),
}


@dataclass(frozen=True)
class EpisodeList:
    """A frozen list of test episodes; fewer episodes or shots are a prefix of it."""

    split: str
    form: EpisodeForm
    seed: int
    episodes: int

    @property
    def file_name(self) -> str:
        """Name of the file in the data set's `results/prepare` folder."""
        return f"episodes-{self.split}-{self.form.n_way}way-{self.form.n_query}query-seed{self.seed}.npz"

    def joined(self, other: "EpisodeList") -> "EpisodeList":
        """Return the list of which this one and `other`, of the same file name, are prefixes."""
        form = replace(self.form, n_shot=max(self.form.n_shot, other.form.n_shot))
        return replace(self, form=form, episodes=max(self.episodes, other.episodes))


@dataclass(frozen=True)
class PrepareJob:
    """Raw files -> verified store, contact sheet and frozen episode lists of one data set.

    Attributes:
        data_key: what the pixels depend on; the only part that trainings read.
        key: `data_key` and the episode lists.
    """

    dataset: Choice
    data_key: str
    key: str
    lists: tuple[EpisodeList, ...]

    stage = "prepare"

    @property
    def name(self) -> str:
        """Label of the data set."""
        return self.dataset.label

    @property
    def dir(self) -> Path:
        """Folder of the small, tracked result."""
        return paths.result_dir("prepare", self.name, self.key)

    @property
    def outputs(self) -> dict[str, Path]:
        """Files whose existence means that the job is done."""
        return {"manifest": self.dir / "manifest.json"}

    @property
    def store_dir(self) -> Path:
        """Folder of the arrays, which belong to neither workflow tool."""
        return paths.PREPARED / self.name / self.data_key

    @property
    def raw_dir(self) -> Path:
        """Folder of downloaded files; data sets made of the same archive share it."""
        return paths.RAW

    @property
    def downloads(self) -> bool:
        """Whether there is anything to fetch: the data set has mirrors and the user gave no path."""
        return "mirrors" in self.dataset.settings and self.dataset.settings["path"] is None

    @property
    def download_record(self) -> Path:
        """File that lists what was fetched."""
        return self.raw_dir / f"{self.name}-{self.data_key}.json"


@dataclass(frozen=True)
class TrainJob:
    """Episodes -> trained learner."""

    experiment: Experiment
    prepare: PrepareJob
    key: str

    stage = "train"

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.experiment.name

    @property
    def dir(self) -> Path:
        """Folder of the result."""
        return paths.result_dir("train", self.name, self.key)

    @property
    def outputs(self) -> dict[str, Path]:
        """Files whose existence means that the job is done."""
        names = {"weights": "weights.safetensors", "run": "run.json", "history": "history.csv"}
        return {key: self.dir / name for key, name in names.items()}

    @property
    def devices(self) -> int:
        """Processes that share the training; where nothing is trained one is enough."""
        recipe = self.experiment.recipe
        return recipe.devices if recipe.epochs and self.experiment.weights is None else 1

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the training beside code and data."""
        return self.experiment.train_settings()


@dataclass(frozen=True)
class EvaluateJob:
    """A trained learner on the frozen episodes of one target, all shots."""

    train: TrainJob
    prepare: PrepareJob
    key: str

    stage = "evaluate"

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.train.name

    @property
    def target(self) -> str:
        """Label of the data set that is tested."""
        return self.prepare.name

    @property
    def dir(self) -> Path:
        """Folder of the result."""
        return paths.result_dir("evaluate", self.name, self.key)

    @property
    def outputs(self) -> dict[str, Path]:
        """Files whose existence means that the job is done."""
        return {"json": self.dir / f"{self.target}.json", "arrays": self.dir / f"{self.target}.npz"}

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the evaluation beside the trained model, code and data."""
        return self.train.experiment.evaluate_settings(self.prepare.dataset)

    @property
    def episodes(self) -> EpisodeList:
        """The frozen list this job reads (a prefix of the file's)."""
        return _episode_list(self.train.experiment)


Job = PrepareJob | TrainJob | EvaluateJob


@dataclass(frozen=True)
class Plan:
    """All jobs of one suite."""

    params: Params
    suite: str
    prepare: tuple[PrepareJob, ...]
    train: tuple[TrainJob, ...]
    evaluate: tuple[EvaluateJob, ...]

    @cached_property
    def report_key(self) -> str:
        """Key of the suite's tables."""
        report = self.params.report.model_dump(mode="json")
        names = [[job.name, job.target, job.key] for job in self.evaluate]
        # Published and expected numbers, and the page's text, are files beside the code.
        texts = {file.name: path_digest(file) for file in sorted(REPORT_DIR.iterdir()) if file.suffix in REPORT_TEXTS}
        return digest(["report", self.suite, report, names, texts, code_digest(STAGE_MODULES["report"])])

    @property
    def tables_dir(self) -> Path:
        """Folder of the suite's tables."""
        return paths.tables_dir(self.suite)

    def jobs(self, stage: str) -> tuple[Job, ...]:
        """Return the jobs of a stage: prepare, train or evaluate."""
        jobs: dict[str, tuple[Job, ...]] = {"prepare": self.prepare, "train": self.train, "evaluate": self.evaluate}
        return jobs[stage]

    @cached_property
    def _by_name(self) -> dict[str, dict[str, list[Any]]]:
        """Stage -> name -> jobs; Snakemake asks for each job several times."""
        found: dict[str, dict[str, list[Any]]] = {stage: {} for stage in ("prepare", "train", "evaluate")}
        for stage, by_name in found.items():
            for job in self.jobs(stage):
                by_name.setdefault(job.name, []).append(job)
        return found

    def find(self, stage: str, name: str, key: str | None = None, target: str | None = None) -> Any:
        """Return the one job of a stage with this name (and key and target, where given).

        Raises:
            ParamsError: if there is none, or its key is another (the settings have changed since).
        """
        named = [job for job in self._by_name[stage].get(name, ()) if target in (None, getattr(job, "target", None))]
        if not named:
            known = sorted(self._by_name[stage])
            raise ParamsError(
                f"suite {self.suite!r} has no {stage} job {name!r}{f' on {target!r}' if target else ''};"
                f"{did_you_mean(name, known)} 'fewshot list --suite {self.suite}' shows all"
            )
        found = [job for job in named if key in (None, job.key)]
        if not found:
            raise ParamsError(
                f"the {stage} job {name} has the key {named[0].key} now, not {key}: params.yaml or the code has "
                "changed since this job was planned; start snakemake again"
            )
        return found[0]

    def of_experiment(self, name: str) -> tuple[EvaluateJob, ...]:
        """Return the evaluations of one experiment."""
        return tuple(self._by_name["evaluate"].get(name, ()))


def load_plan(
    path: Path = PARAMS_FILE, *, suite: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Plan:
    """Read `params.yaml` and plan a suite.

    Args:
        path: the parameter file.
        suite: the suite's name; None takes the file's `suite:`.
        overrides: top-level keys to replace, as given to ``snakemake --config``.

    Raises:
        ParamsError: if anything in the file or the names is wrong.
        DataError: if a file named in it does not exist.
    """
    params = read_params(path, dict(overrides or {}))
    with locate_errors(path):
        return make_plan(params, suite or params.suite)


def make_plan(params: Params, suite: str) -> Plan:
    """Plan the jobs of a suite; see `load_plan`."""
    experiments = suite_experiments(params, suite)
    prepare = _prepare_jobs(experiments)
    train = [
        TrainJob(e, prepare[e.dataset.label], _train_key(e, prepare[e.dataset.label].data_key)) for e in experiments
    ]
    evaluate = [
        EvaluateJob(job, prepare[target.label], _evaluate_key(job, prepare[target.label]))
        for job in train
        for target in job.experiment.targets
    ]
    return Plan(params, suite, tuple(prepare.values()), tuple(train), tuple(evaluate))


def _prepare_jobs(experiments: Iterable[Experiment]) -> dict[str, PrepareJob]:
    """Return the job of every data set that is trained or tested on, with the lists its experiments need."""
    datasets: dict[str, Choice] = {}
    lists: dict[str, dict[str, EpisodeList]] = {}
    for experiment in experiments:
        datasets.setdefault(experiment.dataset.label, experiment.dataset)
        for target in experiment.targets:
            datasets.setdefault(target.label, target)
            wanted = _episode_list(experiment)
            of_target = lists.setdefault(target.label, {})
            of_target[wanted.file_name] = wanted.joined(of_target.get(wanted.file_name, wanted))
    return {label: _prepare_job(dataset, tuple(lists.get(label, {}).values())) for label, dataset in datasets.items()}


def _episode_list(experiment: Experiment) -> EpisodeList:
    protocol = experiment.evaluate
    return EpisodeList(protocol.split, experiment.test_form, protocol.seed, protocol.episodes)


def _prepare_job(dataset: Choice, lists: tuple[EpisodeList, ...]) -> PrepareJob:
    part = DATASETS[dataset.name]
    data_key = digest(["data", dataset.name, _content_settings(dataset, part), _dataset_files(part)])
    key = digest(["prepare", data_key, [asdict(item) for item in lists], code_digest(STAGE_MODULES["lists"])])
    return PrepareJob(dataset, data_key, key, lists)


def _content_settings(dataset: Choice, part: DatasetPart) -> dict[str, Any]:
    """Return the settings that decide the pixels: files given by path count by their content, mirrors not at all."""
    given: tuple[str, ...] = getattr(part.settings, "given_paths", ())
    ignored: tuple[str, ...] = getattr(part.settings, "not_content", ())
    values = {key: value for key, value in dataset.settings.items() if key not in ignored}
    for key in given:
        if values.get(key) is not None:
            values[key] = path_digest(Path(values[key]))
    return values


def _dataset_files(part: DatasetPart) -> dict[str, Any]:
    """Return digests of the code, the class lists and the packages that decide the pixels."""
    files = {name: path_digest(PACKAGE_DIR / "datasets" / name) for name in part.data_files}
    code = code_digest([part.module, *STAGE_MODULES["prepare"]])
    return {"code": code, "files": files, "packages": package_versions(part.packages)}


def _parts_code(experiment: Experiment, stage: str) -> str:
    """Return a digest of a stage's loop and of the parts that the experiment uses."""
    return code_digest([*STAGE_MODULES[stage], *part_modules(experiment)])


def part_modules(experiment: Experiment) -> tuple[str, ...]:
    """Return the modules that the registry entries of an experiment's learner and backbone name."""
    learner, backbone = LEARNERS[experiment.learner.name], BACKBONES[experiment.backbone.name]
    return tuple(dict.fromkeys([*learner.modules, *backbone.modules]))


def _train_key(experiment: Experiment, data_key: str) -> str:
    code = _parts_code(experiment, "train")
    return digest(["train", experiment.train_settings(), data_key, code])


def _evaluate_key(train: TrainJob, target: PrepareJob) -> str:
    settings = train.experiment.evaluate_settings(target.dataset)
    return digest(["evaluate", train.key, settings, target.data_key, _parts_code(train.experiment, "evaluate")])
