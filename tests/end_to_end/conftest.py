"""A small project in a temporary folder, and real `snakemake`, `dvc` and `fewshot` processes running in it."""

import csv
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

# files with timestamps, and the hashes of such files
TIMED = ("run.json", "report.html", "runtimes.csv", "sha256.json")
ROOT = Path(__file__).parents[2]
COPIED = (
    "Snakefile",
    "workflow",
    "experiments",
    "profiles",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/.gitignore",
)

PARAMS = """\
suite: tiny
suites:
  tiny:
    - {dataset: shapes, backbone: conv4, learner: [prototype, ridge], recipe: quick}
    - {dataset: shapes, backbone: pixels, learner: prototype, recipe: untrained}
  other:
    - {dataset: shapes, backbone: conv4, learner: ridge, recipe: [quick, slow]}
recipes:
  quick:
    n_way: 3
    n_shot: 1
    n_query: 2
    meta_batch: 1
    epochs: 2
    steps_per_epoch: 3
    optimizer: adam
    learning_rate: 0.001
    validation: {episodes: 4, n_shot: 1, n_query: 2}
  slow: {base: quick, epochs: 6}
  untrained: {base: quick, epochs: 0}
learners:
  ridge: {ridge: 50.0}
backbones:
  conv4: {filters: 4}
prepare:
  shapes: {base: folder, path: images, image_size: 16}
evaluate:
  n_way: 3
  n_query: 2
  episodes: 20
  shots: [1]
train: {device: cpu}
report: {sheets: false}
"""


def pytest_collection_modifyitems(items):
    """Give whole workflows enough time on a busy machine."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(1800))


@dataclass
class Finished:
    """A finished command: exit status, all output, and the jobs it started."""

    status: int
    text: str
    work: Counter = field(default_factory=Counter)


class Project:
    """A project folder."""

    PROTOTYPE = "shapes-conv4-prototype-quick-s0"
    RIDGE = "shapes-conv4-ridge-quick-s0"
    PIXELS = "shapes-pixels-prototype-untrained-s0"
    NOTHING: ClassVar[Counter] = Counter()
    TABLE: ClassVar[Counter] = Counter(["report"])

    @staticmethod
    def chain(*experiments: str) -> Counter:
        """Jobs that run experiments on a prepared data set and build the table."""
        jobs = [f"{stage} {name}" for name in experiments for stage in ("train", "evaluate")]
        return Counter([*jobs, "report"])

    @property
    def everything(self) -> Counter:
        return self.chain(self.PROTOTYPE, self.RIDGE, self.PIXELS) + Counter(["prepare shapes"])

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = folder.with_name(f"{folder.name}-started.txt")
        self.variables: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("GIT_", "MAKE", "PYTEST", "SNAKE"))
            },
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{Path(__file__).parent / 'watch'}{os.pathsep}{self.folder / 'src'}",
            "FEWSHOT_STARTED": str(self.started),
            "DVC_NO_ANALYTICS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **{f"GIT_{role}_{key}": "test" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
            **self.variables,
        }

    def start(self, command: str, **options) -> subprocess.Popen:
        """Start a command in its own process group."""
        return subprocess.Popen(
            command.split() if isinstance(command, str) else command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell that starts the tests in the background has children ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            **options,
        )

    def try_run(self, command: str) -> Finished:
        before = self.work()
        process = self.start(command)
        try:
            text, _ = process.communicate(timeout=900)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return Finished(process.returncode, text, self.work() - before)

    def run(self, command: str) -> Finished:
        """Run a command that must succeed."""
        finished = self.try_run(command)
        assert finished.status == 0, f"{command}\n{finished.text}"
        return finished

    def snakemake(self, arguments: str = "") -> Finished:
        return self.run(f"snakemake --cores 2 {arguments}")

    def repro(self) -> Finished:
        return self.run("dvc repro")

    def work(self) -> Counter:
        return Counter(self.started.read_text().splitlines()) if self.started.exists() else Counter()

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        text = self.read(name)
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {name}"
        (self.folder / name).write_text(text.replace(old, new), encoding="utf-8")

    def commit(self, message: str = "state") -> str:
        self.run("git add -A")
        self.run(["git", "commit", "-q", "--allow-empty", "-m", message])
        return self.run("git rev-parse HEAD").text.strip()

    def plan(self, suite: str | None = None) -> list[dict]:
        """The rows of `fewshot list --json`."""
        return json.loads(self.run(f"fewshot list --json{f' --suite {suite}' if suite else ''}").text)

    def train_key(self, experiment: str, suite: str | None = None) -> str:
        """The key of the training of an experiment."""
        return next(row["train_key"] for row in self.plan(suite) if row["experiment"] == experiment)

    def table(self, suite: str = "tiny", where: str = "tables") -> dict[str, str]:
        """Accuracy by experiment, from the table."""
        with (self.folder / "results" / where / suite / "runs.csv").open(encoding="utf-8") as file:
            return {row["experiment"]: row["accuracy_pct"] for row in csv.DictReader(file)}

    def digests(self, *folders: str) -> dict[str, str]:
        """Hash of every file in folders, except those with timestamps."""
        folders = folders or ("results",)
        return {
            file.relative_to(self.folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for folder in folders
            for file in sorted((self.folder / folder).rglob("*"))
            if file.is_file() and file.name not in TIMED and "partial" not in file.parts
        }

    def check_table(self, suite: str = "tiny") -> None:
        """The table agrees with the evaluations of the current plan, and these with the settings of their models."""
        rows = self.plan(suite)
        expected = {}
        for row in rows:
            record = json.loads(self.read(row["evaluation"]))
            run = json.loads(self.read(f"{row['train_dir']}/run.json"))
            assert record["train_key"] == row["train_key"] == run["key"]
            assert record["train"] == row["settings"] == run["train"]
            expected[row["experiment"]] = f"{100 * record['results'][0]['accuracy']:.2f}"
        found = {name: f"{float(value):.2f}" for name, value in self.table(suite).items()}
        assert found == expected

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder, symlinks=True)
        copied = Project(folder)
        if self.started.exists():
            shutil.copy(self.started, copied.started)
        return copied


def draw_images(folder: Path) -> None:
    """Class folders of small images: a noisy patch with the colour and position of its class."""
    random = np.random.default_rng(0)
    for split, classes in (("train", 4), ("validation", 3), ("test", 3)):
        for number in range(classes):
            place = folder / split / f"{split}{number}"
            place.mkdir(parents=True)
            colour, corner = random.integers(60, 256, 3), random.integers(0, 8, 2)
            for index in range(6):
                image = random.integers(0, 60, (16, 16, 3)).astype(np.uint8)
                image[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = colour
                Image.fromarray(image).save(place / f"{index}.png")


def _new_project(folder: Path) -> Project:
    folder.mkdir()
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for package in ("fewshot", "snakemake_logger_plugin_fewshot"):
        half_written = shutil.ignore_patterns("*.tmp.*", "*.pyc.*")  # what is compiled saves each new project 20 s
        shutil.copytree(ROOT / "src" / package, folder / "src" / package, ignore=half_written)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    draw_images(folder / "images")
    project = Project(folder)
    stages = project.read("dvc.yaml")
    deps = "deps: [Snakefile, workflow/rules, experiments, src/fewshot]"
    (folder / "dvc.yaml").write_text(stages.replace(deps, deps.replace("]", ", images]"), 1), encoding="utf-8")
    project.run("git init -q -b main")
    project.commit("start")
    return project


def _template(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Project:
    """Create a project once for all processes of a test run."""
    root = factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "workflow" / name
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_name(f"{name}-done")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return Project(folder)


@pytest.fixture(scope="session")
def fresh_template(tmp_path_factory):
    """A project without results."""
    return _template(tmp_path_factory, "fresh", _new_project)


@pytest.fixture(scope="session")
def made_template(fresh_template, tmp_path_factory):
    """A project whose suite was run by `snakemake` but not yet recorded by DVC."""

    def make(folder):
        project = fresh_template.copy(folder)
        assert project.snakemake().work == project.everything

    return _template(tmp_path_factory, "made", make)


@pytest.fixture(scope="session")
def recorded_template(made_template, tmp_path_factory):
    """A project whose suite was run by `snakemake`, recorded by `dvc repro` and committed."""

    def make(folder):
        project = made_template.copy(folder)
        project.repro()
        project.commit("recorded")

    return _template(tmp_path_factory, "recorded", make)


@pytest.fixture
def fresh(fresh_template, tmp_path):
    return fresh_template.copy(tmp_path / "fresh")


@pytest.fixture
def made(made_template, tmp_path):
    return made_template.copy(tmp_path / "made")


@pytest.fixture
def recorded(recorded_template, tmp_path):
    return recorded_template.copy(tmp_path / "recorded")


@pytest.fixture
def bucket():
    """A bucket on a local S3 server, with the name given in profiles/kubernetes."""
    boto3, moto_server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    storage = boto3.resource(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    yield storage.create_bucket(Bucket="fewshot")
    server.stop()
