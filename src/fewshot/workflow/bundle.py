"""Experiments for a machine without network, and their results back: `fewshot bundle` and `fewshot unbundle`.

A bundle holds the source, `params.yaml`, the prepared data sets, wheels and the script `sharing.bundle_script`. Keys
depend on source, settings and data, not on the machine, so its results are those that the workflow here asks for.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot import paths
from fewshot.digests import RECORDED
from fewshot.errors import DataError, FewshotError, ParamsError, quoted
from fewshot.experiments.reader import read_files
from fewshot.files import read_json, write_json
from fewshot.sharing import bundle_script
from fewshot.sharing.image_sheets import pack_store
from fewshot.workflow.jobs import open_prepared, prepare_job
from fewshot.workflow.listing import counted
from fewshot.workflow.plan import Plan
from fewshot.workflow.planned_jobs import EvaluateJob, PrepareJob, TrainJob
from fewshot.workflow.results import adopt_checkpoints, adopt_result, restore_result

LOCK_FILE = Path("requirements.lock")
WHEELS = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    *("safetensors", "filelock", "tqdm", "pyyaml", "requests"),
)
PLATFORMS = tuple(f"manylinux{version}_x86_64" for version in ("_2_28", "_2_27", "_2_17", "2014", "1"))
SCRIPT = "run.py"
COPY_ALL = "copy all files that run.py wrote"


@dataclass(frozen=True)
class Target:
    """The machine that a bundle is for.

    Attributes:
        python_version: such as "3.12".
        platforms: tags of wheels it can use.
        wheels: packages to bring; those that the machine has are not used.
        part_bytes: largest size of a part.
    """

    python_version: str = "3.12"
    platforms: tuple[str, ...] = PLATFORMS
    wheels: tuple[str, ...] = WHEELS
    part_bytes: int = 58_000_000


def make_bundle(plan: Plan, names: Sequence[str], params: Path, out: Path, target: Target) -> str:
    """Write a bundle; return a summary.

    Args:
        plan: of the suite.
        names: its experiments to run; all if empty.
        params: the parameter file.
        out: folder for the parts, `bundle.json` and `run.py`.
        target: the machine.

    Raises:
        ParamsError: if an experiment is unknown or starts from a weights file.
        FewshotError: if the wheels cannot be downloaded.
    """
    evaluations = [job for name in names for job in _named(plan, name)] or list(plan.evaluate)
    trainings = list({job.key: job for evaluation in evaluations for job in evaluation.train.chain[::-1]}.values())
    for job in trainings:
        if job.experiment.weights is not None:
            raise ParamsError(f"{job.name}: evaluates given weights, which a bundle does not contain; leave it out")
    pinned = [f"{name}=={_locked_version(name)}" for name in target.wheels]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        stage = Path(scratch)
        _add_wheels(stage / "wheels", pinned, target)
        _add_source(stage, params)
        jobs: list[TrainJob | EvaluateJob] = [*trainings, *evaluations]
        prepared = {job.prepare.name: job.prepare for job in jobs}
        stores = [_add_data(stage, job) for job in prepared.values()]
        _add_recorded(stage, plan)
        _add_finished(stage, jobs)
        files = [(file, file.relative_to(stage)) for file in sorted(stage.rglob("*")) if file.is_file()]
        contents = bundle_script.write_parts(files, out, "bundle", target.part_bytes)
    chains = _chains(trainings, evaluations)
    record = {"suite": plan.suite, "python": target.python_version, "stores": stores, "chains": chains, **contents}
    write_json(out / bundle_script.CONTENTS, record)
    shutil.copyfile(bundle_script.__file__, out / SCRIPT)
    size = sum(part["bytes"] for part in contents["parts"])
    return (
        f"{out}: {counted(trainings, 'training')} and {counted(evaluations, 'evaluation')}, "
        f"{counted(contents['parts'], 'part')}, "
        f"{size / 1e6:.0f} MB; on the other machine: python {SCRIPT} --into work --minutes 60 --out results"
    )


def _chains(trainings: Sequence[TrainJob], evaluations: Sequence[EvaluateJob]) -> list[dict[str, list[Any]]]:
    """Return each training with those that start from it and their evaluations, in order, as the script reads them."""
    return [
        {
            "train": [[job.name, job.key] for job in trainings if first in job.chain],
            "evaluate": [[job.name, job.key, job.target] for job in evaluations if first in job.train.chain],
        }
        for first in trainings
        if first.init is None
    ]


def take_results(plan: Plan, folder: Path) -> str:
    """Take results of a bundle into `cache/` and those of the plan into `results/`; return a summary.

    Checkpoints, which are large, may have been left behind.

    Raises:
        DataError: if a file is missing or damaged, or a result does not belong to its key.
    """
    record = read_json(folder / "results.json", advice=COPY_ALL)
    if not isinstance(record, dict) or not {"suite", "archives"} <= record.keys():
        raise DataError(f"{folder / 'results.json'}: not what run.py wrote; {COPY_ALL}")
    counts = {kind: _take_archive(folder, kind, archive["parts"]) for kind, archive in record["archives"].items()}
    other = f"; the bundle is of suite {record['suite']}, whose state --suite {record['suite']} shows"
    ready = sum(not restore_result(job) for stage in ("train", "evaluate") for job in plan.jobs(stage))
    taken = [counted(range(counts.get(f"{kind}s", 0)), kind) for kind in ("result", "checkpoint")]
    return (
        f"{folder}: took {' and '.join(taken)}; "
        f"suite {plan.suite}: {ready} of {len(plan.train) + len(plan.evaluate)} trainings and evaluations are finished"
        f"{other if record['suite'] != plan.suite else ''}"
    )


def _take_archive(folder: Path, kind: str, parts: Sequence[dict[str, Any]]) -> int:
    """Take the results or checkpoints of an archive into `cache/`; return how many were new."""
    missing = [part["name"] for part in parts if not (folder / part["name"]).is_file()]
    if kind == "checkpoints" and len(missing) == len(parts):
        return 0
    if missing:
        raise DataError(f"{folder / missing[0]}: missing; {COPY_ALL}")
    adopt = adopt_result if kind == "results" else adopt_checkpoints
    paths.CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.CACHE) as scratch:
        try:
            for part in parts:
                bundle_script.check_part(folder, part)
            bundle_script.extract_parts(folder, parts, Path(scratch))
        except bundle_script.Refused as error:
            raise DataError(str(error).removeprefix("error: ")) from None
        entries = sorted(Path(scratch).glob("*/*"))
        for entry in entries:
            if entry.parent.name not in ("train", "evaluate") or not re.fullmatch(r"[0-9a-f]+", entry.name):
                raise DataError(
                    f"{folder}: contains {quoted(entry.relative_to(scratch).as_posix())}, which is no result"
                )
        return sum(adopt(entry, entry.parent.name, entry.name) for entry in entries)


def _named(plan: Plan, name: str) -> tuple[EvaluateJob, ...]:
    """Return the evaluations of an experiment."""
    plan.find("evaluate", name)
    return plan.of_experiment(name)


def _add_source(stage: Path, params: Path) -> None:
    """Copy the package and the parameters: those of all files, as one (JSON is YAML, too)."""
    shutil.copytree(paths.PACKAGE_DIR, stage / "src" / "fewshot", ignore=shutil.ignore_patterns("__pycache__"))
    values = {section: value for section, value in read_files(params).values.items() if section != "include"}
    (stage / "params.yaml").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _add_data(stage: Path, job: PrepareJob) -> list[str]:
    """Add a prepared data set; return the folders of its sheets and of its store."""
    prepare_job(job)
    shutil.copytree(job.dir, stage / job.dir)
    sheets = Path("sheets") / job.name / job.data_key
    pack_store(open_prepared(job), stage / sheets)
    return [sheets.as_posix(), job.store_dir.as_posix()]


def _add_recorded(stage: Path, plan: Plan) -> None:
    """Record what the keys depend on and stays here: files that the user gave by path, packages that draw images."""
    files, packages = {}, {}
    for job in plan.prepare:
        packages.update(job.identity["data"]["packages"])
        for setting, digest in job.identity["data"]["content"].items():
            files[str(Path(job.dataset.settings[setting]))] = digest
    (stage / RECORDED).parent.mkdir(parents=True, exist_ok=True)
    write_json(stage / RECORDED, {"files": files, "packages": packages})


def _add_finished(stage: Path, jobs: Sequence[TrainJob | EvaluateJob]) -> None:
    """Add what is finished here already, and the checkpoints of what is not."""
    for job in jobs:
        restore_result(job)
        for file in bundle_script.job_files(job.cache_dir):
            (stage / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, stage / file)


def _add_wheels(folder: Path, pinned: Sequence[str], target: Target) -> None:
    """Download the wheels that a machine with torch may lack."""
    if not pinned:
        return
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", target.python_version]
    options += [option for platform in target.platforms for option in ("--platform", platform)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--disable-pip-version-check",
        *options,
        "-d",
        str(folder),
    ]
    done = subprocess.run([*command, *pinned], capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if "Ignored the following" not in line]
        raise FewshotError(
            f"the wheels for Python {target.python_version} cannot be downloaded: {'; '.join(lines[-3:])}; "
            "give others with --wheels, or none with --wheels none"
        )


def _locked_version(name: str) -> str:
    """Return the version of a package in the lock file."""
    found = re.search(rf"^{re.escape(name)}==([^\s;]+)", LOCK_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ParamsError(f"--wheels: {quoted(name)} is not in {LOCK_FILE}; give names of packages listed there")
    return found[1]
