"""Results that are no longer needed: `fewshot prune` lists them and deletes them only on request.

The results needed are those of every suite in `params.yaml` with the current code, and those recorded by the `dvc.lock`
of any branch, tag or DVC experiment: after a checkout they are restored from `cache/`, not recomputed.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from fewshot import paths
from fewshot.errors import FewshotError, ParamsError
from fewshot.experiments.params import Params
from fewshot.files import read_json
from fewshot.workflow.old_layout import is_key, old_entries
from fewshot.workflow.plan import Plan, make_plan
from fewshot.workflow.results import RESULT, names_in

REFS = ("refs/heads", "refs/remotes", "refs/tags", "refs/exps")

Key = tuple[str, str, str]  # stage, name of the job, key


@dataclass(frozen=True)
class UnneededFolder:
    """Files of one job or suite that are no longer needed.

    Attributes:
        kind: "old" (the job has a new key), "orphaned" (its job is in no suite), "partial", "arrays" or "figure".
        path: folder.
        size: bytes.
        names: of the job, where the path does not show them.
    """

    kind: str
    path: Path
    size: int
    names: tuple[str, ...] = ()


def suite_plans(params: Params, suite: str | None) -> list[Plan]:
    """Return the plans of all suites, or of the one named.

    Raises:
        ParamsError: if a suite cannot be planned, so that what it needs is unknown.
    """
    plans = []
    for name in [suite] if suite else params.suites:
        try:
            plans.append(make_plan(params, name))
        except FewshotError as error:
            raise ParamsError(
                f"suite {name!r} cannot be planned, so what it needs is unknown ({error}); fix it, or name the only "
                "suite to keep with --suite"
            ) from None
    return plans


def planned_keys(plans: Iterable[Plan]) -> set[Key]:
    """Return the keys of all jobs of the suites."""
    return {(job.stage, job.name, job.key) for plan in plans for stage in paths.JOB_STAGES for job in plan.jobs(stage)}


def recorded_keys() -> set[Key]:
    """Return the keys of the jobs recorded by the `dvc.lock` of the working tree or of any branch, tag or experiment.

    Raises:
        FewshotError: if a recorded folder is missing from DVC's local cache, so that its jobs are unknown.
    """
    locks = {"the working tree": Path("dvc.lock").read_text(encoding="utf-8")} if Path("dvc.lock").exists() else {}
    for ref in _git("for-each-ref", "--format=%(refname)", *REFS).split():
        text = _git("show", f"{ref}:dvc.lock")
        if text:
            locks[ref] = text
    folder = _dvc_cache_dir() if locks else Path()
    seen: dict[tuple[str, str], set[Key]] = {}
    for ref, text in locks.items():
        for stage, md5 in _recorded_outputs(text):
            if (stage, md5) not in seen:
                seen[stage, md5] = _keys_in_listing(stage, folder / md5[:2] / md5[2:], ref)
    return set().union(*seen.values()) if seen else set()


def _recorded_outputs(lock: str) -> Iterator[tuple[str, str]]:
    """Yield (stage, md5 of the folder) for each result folder in a dvc.lock."""
    for stage in (yaml.safe_load(lock) or {}).get("stages", {}).values():
        for out in stage.get("outs", []):
            name = Path(out["path"]).name
            if name in paths.JOB_STAGES and Path(out["path"]).parent == paths.RESULTS:
                yield name, out["md5"]


def _keys_in_listing(stage: str, listing: Path, ref: str) -> set[Key]:
    """Return the keys of the jobs in a folder recorded by DVC, whose files are <name>/<key>/..."""
    try:
        files = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FewshotError(
            f"{ref} records results that are missing from DVC's local cache, so what it needs is unknown; fetch them "
            "with 'dvc fetch --all-branches --all-tags', or use --ignore-refs to keep only what the suites need"
        ) from None
    parts = (Path(file["relpath"]).parts for file in files)
    return {(stage, part[0], part[1]) for part in parts if len(part) > 2}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _dvc_cache_dir() -> Path:
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FewshotError(f"'dvc cache dir' failed: {done.stderr.strip()}; --ignore-refs works without it")
    return Path(done.stdout.strip()) / "files" / "md5"


def find_unneeded(plans: list[Plan], needed: set[Key]) -> list[UnneededFolder]:
    """Return the folders in `results/`, `cache/` and `data/prepared` that are not needed, largest first."""
    data_keys = {(job.name, job.data_key) for plan in plans for job in plan.prepare} | _data_keys_of(needed)
    suites = {plan.suite for plan in plans}
    tables = [("orphaned", folder) for folder in _subfolders(paths.CACHE / "tables", "*") if folder.name not in suites]
    partial = [("partial", folder) for folder in _subfolders(paths.RESULTS / "partial", "*")]
    arrays = [
        ("arrays", folder)
        for folder in _subfolders(paths.PREPARED, "*/*")
        if (folder.parent.name, folder.name) not in data_keys
    ]
    others = [
        UnneededFolder(kind, folder, _folder_size(folder))
        for kind, folder in (*tables, *partial, *arrays, *_unneeded_figures())
    ]
    return sorted([*_unneeded_jobs(plans, needed), *others], key=lambda item: (-item.size, item.path))


def _unneeded_figures() -> list[tuple[str, Path]]:
    """Return the figures in the cache that no report in `results/tables` shows."""
    manifests = (read_json(file) for file in sorted(paths.RESULTS.glob("tables/*/manifest.json")))
    shown = {key for manifest in manifests for key in manifest.get("figures", {}).values()}
    return [("figure", folder) for folder in _subfolders(paths.FIGURES, "*") if folder.name not in shown]


def _unneeded_jobs(plans: list[Plan], needed: set[Key]) -> Iterator[UnneededFolder]:
    """Yield the folders of jobs whose key is not needed, under whatever name."""
    planned = {(stage, name) for stage, name, _ in planned_keys(plans)}
    keys = {(stage, key) for stage, _, key in needed}
    for stage in paths.JOB_STAGES:
        duplicates = {entry for entry in old_entries(stage) if (paths.CACHE / stage / entry.name / RESULT).exists()}
        for folder, names in _job_folders(stage):
            if (stage, folder.name) in keys and folder not in duplicates:
                continue
            kind = "old" if any((stage, name) in planned for name in names) else "orphaned"
            yield UnneededFolder(kind, folder, _folder_size(folder), names if folder.parent.name == stage else ())


def _job_folders(stage: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield every folder of a job in `results/` and `cache/`, with the names it has or was used under."""
    tests = _subfolders(paths.RESULTS / paths.TESTS / stage, "*/*")
    for folder in (*_subfolders(paths.RESULTS / stage, "*/*"), *tests, *old_entries(stage)):
        yield folder, (folder.parent.name,)
    for folder in _subfolders(paths.CACHE / stage, "*"):
        if is_key(folder.name):
            yield folder, tuple(names_in(folder))


def _subfolders(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _data_keys_of(needed: set[Key]) -> set[tuple[str, str]]:
    """Return (data set, key of its arrays) of the prepared data behind the needed results."""
    keys = set()
    for stage, name, key in needed:
        for folder in (paths.RESULTS / stage / name / key, paths.CACHE / stage / key / RESULT):
            manifest = folder / "manifest.json"
            if stage == "prepare" and manifest.exists():
                keys.add((name, read_json(manifest)["data_key"]))
    return keys


def delete_folders(folders: Iterable[UnneededFolder]) -> tuple[list[UnneededFolder], list[UnneededFolder]]:
    """Delete folders; return those deleted, and those skipped because a running job uses them."""
    deleted, in_use = [], []
    for folder in folders:
        try:
            with FileLock(folder.path / ".lock", timeout=0):
                shutil.rmtree(folder.path)
        except Timeout:
            in_use.append(folder)
            continue
        deleted.append(folder)
        if folder.path.parent.is_dir() and not any(folder.path.parent.iterdir()):
            folder.path.parent.rmdir()
    return deleted, in_use


def summary(folders: list[UnneededFolder], *, deleted: bool) -> str:
    """Return as text the size, kind and path of each folder, and the total size."""
    if not folders:
        return "nothing to delete: every result is needed by a suite or recorded in a branch, tag or experiment"
    lines = [
        f"{_human_size(folder.size):>9}  {folder.kind:<8}  {folder.path}  {' '.join(folder.names)}".rstrip()
        for folder in folders
    ]
    total = f"{_human_size(sum(folder.size for folder in folders)):>9}  in {len(folders)} folders"
    end = "deleted" if deleted else "nothing was deleted; 'fewshot prune --delete' deletes these"
    return "\n".join([*lines, total, end])


def _folder_size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _human_size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
