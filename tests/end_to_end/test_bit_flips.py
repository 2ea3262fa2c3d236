"""One flipped bit in any file that a run reads is healed, refused with one clear error, or leaves the table as it was.

FEWSHOT_FLIPS=<n> sets the number of flips per kind of file (default 3); FEWSHOT_FLIP_SEED chooses other bits.
"""

import io
import os
import pickle
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewshot
from fewshot import digests
from fewshot.datasets.cifar_fs import CifarFs
from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.releases import RELEASES, Release, RemoteFile
from fewshot.errors import FewshotError
from fewshot.paths import JOB_STAGES
from fewshot.report import tables
from fewshot.report.contents import read_contents
from fewshot.workflow.jobs import download_job, evaluate_job, export_job, prepare_job, train_job
from fewshot.workflow.plan import load_plan
from fewshot.workflow.results import restore_result
from fewshot.workflow.suite_report import report_suite, suite_report
from fewshot.workflow.tables_state import tables_are_current

FLIPS = int(os.environ.get("FEWSHOT_FLIPS", "3"))
SEED = int(os.environ.get("FEWSHOT_FLIP_SEED", "0"))

CLASSES = {"train": ["ant", "bee", "cat"], "validation": ["dog", "elk", "fox"], "test": ["gnu", "hen", "imp"]}
IMAGES_PER_CLASS = 5
ARCHIVE = "cifar-100-python.tar.gz"
TIMED = ("run.json", "sha256.json")  # files with times, or with hashes of such files

PARAMS = """\
suite: tiny
suites:
  tiny: [{dataset: cifar_fs, backbone: conv4, learner: ridge, recipe: quick}]
  given: [{dataset: shapes, backbone: pixels, learner: prototype, recipe: quick}]
recipes:
  quick: {n_way: 2, n_shot: 1, n_query: 1, meta_batch: 1, epochs: 3, steps_per_epoch: 1, keep_checkpoints: 2,
          validation: {episodes: 2, n_shot: 1, n_query: 1}}
backbones: {conv4: {filters: 2}}
prepare: {shapes: {base: folder, path: images, image_size: 16}}
evaluate: {n_way: 2, n_query: 2, episodes: 6, shots: [1]}
train: {device: cpu, checkpoint_seconds: 0.0}
report: {sheets: false}
"""


def write_archive(path):
    """Write noisy images in the form of CIFAR-100."""
    names = [name for listed in CLASSES.values() for name in listed]
    labels = np.repeat(np.arange(len(names)), IMAGES_PER_CLASS)
    rows = np.random.default_rng(0).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    contents = {"meta": {"fine_label_names": names}}
    for part, chosen in (("train", labels < 5), ("test", labels >= 5)):
        contents[part] = {"data": rows[chosen], "fine_labels": labels[chosen].tolist()}
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            pickled = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(pickled)
            archive.addfile(info, io.BytesIO(pickled))


def write_images(folder):
    """Write class folders of images of one colour."""
    for number, (split, name) in enumerate((split, name) for split, listed in CLASSES.items() for name in listed):
        (folder / split / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (16, 16), (25 * number, 80 * index, 7)).save(folder / split / name / f"{index}.png")


@pytest.fixture(scope="module", autouse=True)
def small_release():
    """Make the synthetic archive the only release of cifar_fs, without a known checksum."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RELEASES, "cifar_fs", (Release("cifar100", (RemoteFile(ARCHIVE, ()),)),))
        patch.setattr(CifarFs, "class_lists", ClassLists(CLASSES, images_per_class=IMAGES_PER_CLASS))
        yield


def new_process():
    """Forget the digests in memory, as a new process would."""
    digests._computed.clear()
    digests._saved.cache_clear()
    digests._file_digest.cache_clear()


def run_suite():
    """Run what is missing of the suite; return the digests of all results and the table's numbers."""
    new_process()
    plan = load_plan()
    for prepare in missing(plan.prepare):
        prepare_job(prepare)
    for train in missing(plan.train):
        train_job(train, plan)
    for evaluate in missing(plan.evaluate):
        evaluate_job(evaluate, plan)
    numbers = table()
    files = [file for stage in JOB_STAGES for file in sorted(Path("results", stage).rglob("*.*"))]
    return {file.as_posix(): digests.sha256_of(file) for file in files if file.name not in TIMED}, numbers


def missing(jobs):
    """Yield the jobs that a workflow would run: those whose files do not exist."""
    return (job for job in jobs if not all(path.exists() for path in job.outputs.values()))


def table():
    """Return the numbers of the table as text."""
    new_process()
    return repr([tables.run_record(run) for run in read_contents(suite_report(load_plan())).runs])


def interrupt_training(monkeypatch):
    """Train until the weights would be published; leave only the checkpoints."""

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    forget("results/train", "cache/train")
    plan = load_plan()
    with monkeypatch.context() as patch:
        patch.setattr("fewshot.training.train.publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_job(plan.train[0], plan)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder with a finished suite, its tables and an export, one with checkpoints only, and `run_suite()`."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(PARAMS)
        write_archive(Path("data/raw/cifar100") / ARCHIVE)
        write_images(Path("images"))
        plan = load_plan()
        download_job(plan.prepare[0])
        expected = run_suite()
        report_suite(plan, plan.tables_dir)
        export_job(plan.experiments[0], plan, Path("exports/model"))
        interrupt = tmp_path_factory.mktemp("interrupted") / "project"
        shutil.copytree(folder, interrupt)
        patch.chdir(interrupt)
        interrupt_training(patch)
    return folder, interrupt, expected


def flip(file, chance):
    """Flip a random bit of a file."""
    content = bytearray(file.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return bit


def forget(*folders):
    for folder in folders:
        shutil.rmtree(folder)


def evaluate_again():
    forget("results/evaluate", "cache/evaluate")
    return run_suite()


def evaluate_without_cache():
    """Evaluate when the damaged results have no copy; only the evaluation may read them."""
    new_process()
    forget("results/evaluate", "cache")
    plan = load_plan()
    evaluate_job(plan.evaluate[0], plan)
    return table()


def report_without_cache():
    forget("cache")
    return table()


def prepare_again():
    forget("data/prepared", "results/evaluate", "cache/evaluate")
    return run_suite()


def restore_from_cache():
    forget("results/train", "results/evaluate")
    return run_suite()


def resume():
    return evaluate_again()


def plan_given():
    """Return the key of user images, which must differ from that of the unchanged images."""
    new_process()
    return load_plan(suite="given").evaluate[0].key


def show_tables():
    """Return the table as written, if the stamp says that it is up to date."""
    if not tables_are_current(load_plan()):
        raise FewshotError("out of date")
    return Path("results/tables/tiny/runs.csv").read_text()


def classify():
    images = [np.full((32, 32, 3), value, np.uint8) for value in (0, 90, 250)]
    return repr(fewshot.load("exports/model").scores(images[:2], [0, 1], images).tolist())


HEALED, REFUSED = "healed", "refused"  # refused, or without effect

# kind: files, what reads them, what happens
KINDS = {
    "arrays": ("data/prepared/*/*/*.npy", evaluate_again, HEALED),
    "source ids": ("data/prepared/*/*/*.sources.txt", evaluate_again, HEALED),
    "store record": ("data/prepared/*/*/store.json", evaluate_again, HEALED),
    "downloaded archive": (f"data/raw/cifar100/{ARCHIVE}", prepare_again, REFUSED),
    "checksum of the download": ("data/raw/cifar100/.*.sha256", prepare_again, REFUSED),
    "record of the download": ("data/raw/*.json", prepare_again, REFUSED),
    "manifest": ("results/prepare/*/*/manifest.json", evaluate_again, HEALED),
    "manifest without a copy": ("results/prepare/*/*/manifest.json", evaluate_without_cache, REFUSED),
    "episodes": ("results/prepare/*/*/*.npz", evaluate_again, HEALED),
    "episodes without a copy": ("results/prepare/*/*/*.npz", evaluate_without_cache, REFUSED),
    "weights": ("results/train/*/*/weights.safetensors", evaluate_again, HEALED),
    "weights without a copy": ("results/train/*/*/weights.safetensors", evaluate_without_cache, REFUSED),
    "ensemble": ("results/train/*/*/ensemble/*", evaluate_again, HEALED),
    "ensemble without a copy": ("results/train/*/*/ensemble/*", evaluate_without_cache, REFUSED),
    "history and run": ("results/train/*/*/[hr]*", report_without_cache, REFUSED),
    "recorded hashes": ("results/*/*/*/sha256.json", evaluate_again, HEALED),
    "recorded hashes without a copy": ("results/*/*/*/sha256.json", evaluate_without_cache, REFUSED),
    "identity": ("results/train/*/*/identity.json", evaluate_again, HEALED),
    "evaluation": ("results/evaluate/*/*/cifar_fs.json", table, HEALED),
    "evaluation without a copy": ("results/evaluate/*/*/cifar_fs.json", report_without_cache, REFUSED),
    "evaluation arrays": ("results/evaluate/*/*/*.npz", table, HEALED),
    "evaluation arrays without a copy": ("results/evaluate/*/*/*.npz", report_without_cache, REFUSED),
    "cached results": ("cache/*/*/result/*.*", restore_from_cache, HEALED),
    "remembered digests": ("cache/digests.json", evaluate_again, HEALED),
    "tables": ("results/tables/tiny/r*.*", show_tables, REFUSED),
    "export": ("exports/model/*", classify, REFUSED),
    "user images": ("images/*/*/*.png", plan_given, REFUSED),
    "newest checkpoint": ("cache/train/*/checkpoints/checkpoint.pt", resume, HEALED),
    "checkpoint before": ("cache/train/*/checkpoints/checkpoint-previous.pt", resume, HEALED),
    "kept states": ("cache/train/*/checkpoints/epoch-*", resume, HEALED),
}


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """Return a function that gives a copy of a finished (or interrupted) project, and works in it."""

    def copy(interrupted=False):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(finished[interrupted], folder)
        monkeypatch.chdir(folder)

    return copy


@pytest.fixture(scope="module")
def undamaged():
    """What each reader returns without a flip, as far as known."""
    return {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_never_gives_other_numbers(kind, project, undamaged):
    pattern, read, outcome = KINDS[kind]
    if read not in undamaged:
        project(interrupted=read is resume)
        undamaged[read] = read()
    chance = random.Random(f"{SEED} {kind}")
    for number in range(FLIPS):
        project(interrupted=read is resume)
        file = chance.choice(sorted(Path().glob(pattern)))
        print(f"seed {SEED}, {kind}, flip {number}: bit {flip(file, chance)} of {file}")
        found = result_or_refusal(read)
        if isinstance(found, FewshotError):
            assert outcome == REFUSED, found
        else:
            assert (found == undamaged[read]) == (kind != "user images")
            assert not any(damaged_results())


def result_or_refusal(read):
    try:
        return read()
    except FewshotError as error:
        return error


def damaged_results():
    plan = load_plan()
    return [restore_result(job) for stage in JOB_STAGES for job in plan.jobs(stage)]


def test_a_flip_that_keeps_the_times_of_the_file_is_noticed_on_request(project, finished, monkeypatch):
    project()
    damaged_results()  # verified and remembered
    (weights,) = Path("results/train").rglob("weights.safetensors")
    before, times = weights.read_bytes(), weights.stat()
    flip(weights, random.Random(SEED))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setenv("FEWSHOT_VERIFY", "1")

    assert evaluate_again() == finished[2]
    assert weights.read_bytes() == before


def test_the_partial_report_names_the_command_that_remakes_a_damaged_result(project, finished):
    project()
    plan = load_plan()
    flip(plan.evaluate[0].outputs["arrays"], random.Random(SEED))
    forget("cache")

    text = report_suite(plan, Path("results/partial/tiny"), allow_missing=True).text

    assert "sha256 differs): cifar_fs.npz" in text
    assert f"run: fewshot evaluate {plan.evaluate[0].name} --suite tiny" in text
    evaluate_job(plan.evaluate[0], plan)  # the command
    assert run_suite() == finished[2]
