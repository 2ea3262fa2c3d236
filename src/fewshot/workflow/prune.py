"""What nothing needs any more: `fewshot prune`. Shows first; deletes only when told.

Needed is what a suite of `params.yaml` asks for with the present code, and what the `dvc.lock` of any branch, tag or
DVC experiment has recorded: whoever checks that out finds its results in `cache/` and need not compute them again.
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
from fewshot.workflow.plan import Plan, make_plan

JOB_STAGES = ("prepare", "train", "evaluate")
REFS = ("refs/heads", "refs/remotes", "refs/tags", "refs/exps")

Key = tuple[str, str, str]  # stage, name of the job, key


@dataclass(frozen=True)
class Leftover:
    """Files of one job or suite that nothing needs.

    Attributes:
        kind: "old" (the job has another key now), "orphaned" (no suite knows it), "partial" or "arrays".
        path: folder.
        size: bytes.
    """

    kind: str
    path: Path
    size: int


def suite_plans(params: Params, suite: str | None) -> list[Plan]:
    """Return the plans of all suites, or of the one named.

    Raises:
        FewshotError: if one cannot be planned: what it needs is then not known.
    """
    plans = []
    for name in [suite] if suite else params.suites:
        try:
            plans.append(make_plan(params, name))
        except FewshotError as error:
            raise ParamsError(
                f"suite {name!r} cannot be planned, so what it needs is not known ({error}); mend it, or name the only "
                "suite that counts with --suite"
            ) from None
    return plans


def planned_keys(plans: Iterable[Plan]) -> set[Key]:
    """Return the jobs that suites ask for."""
    return {(job.stage, job.name, job.key) for plan in plans for stage in JOB_STAGES for job in plan.jobs(stage)}


def recorded_keys() -> set[Key]:
    """Return the jobs whose results the `dvc.lock` of the working tree or of any branch, tag or experiment records.

    Raises:
        FewshotError: if a record is not in DVC's cache here, so that its jobs are not known.
    """
    locks = {"the working tree": Path("dvc.lock").read_text(encoding="utf-8")} if Path("dvc.lock").exists() else {}
    for ref in _git("for-each-ref", "--format=%(refname)", *REFS).split():
        text = _git("show", f"{ref}:dvc.lock")
        if text:
            locks[ref] = text
    folder = _dvc_cache_dir() if locks else Path()
    seen: dict[tuple[str, str], set[Key]] = {}
    for ref, text in locks.items():
        for stage, md5 in _recorded_folders(text):
            if (stage, md5) not in seen:
                seen[stage, md5] = _keys_of(stage, folder / md5[:2] / md5[2:], ref)
    return set().union(*seen.values()) if seen else set()


def _recorded_folders(lock: str) -> Iterator[tuple[str, str]]:
    """Yield (stage, md5 of the folder) of a dvc.lock."""
    for stage in (yaml.safe_load(lock) or {}).get("stages", {}).values():
        for out in stage.get("outs", []):
            name = Path(out["path"]).name
            if name in JOB_STAGES and Path(out["path"]).parent == paths.RESULTS:
                yield name, out["md5"]


def _keys_of(stage: str, listing: Path, ref: str) -> set[Key]:
    """Return the jobs in a folder that DVC recorded: files are <name>/<key>/..."""
    try:
        files = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FewshotError(
            f"{ref} records results that are not in DVC's cache here, so what it needs is not known; "
            "'dvc fetch --all-branches --all-tags' gets them, --ignore-refs leaves all but the suites out of account"
        ) from None
    parts = (Path(file["relpath"]).parts for file in files)
    return {(stage, part[0], part[1]) for part in parts if len(part) > 2}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _dvc_cache_dir() -> Path:
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FewshotError(f"'dvc cache dir' failed: {done.stderr.strip()}; --ignore-refs goes without it")
    return Path(done.stdout.strip()) / "files" / "md5"


def leftovers(plans: list[Plan], needed: set[Key]) -> list[Leftover]:
    """Return what lies in `results/`, `cache/`, `data/prepared` and nobody needs, largest first."""
    names = {(stage, name) for stage, name, _ in planned_keys(plans)}
    data_keys = {(job.name, job.data_key) for plan in plans for job in plan.prepare} | _data_keys(needed)
    jobs = [
        ("old" if (stage, folder.parent.name) in names else "orphaned", folder)
        for root in (paths.RESULTS, paths.CACHE)
        for stage in JOB_STAGES
        for folder in _folders(root / stage, "*/*")
        if (stage, folder.parent.name, folder.name) not in needed
    ]
    suites = {plan.suite for plan in plans}
    tables = [("orphaned", folder) for folder in _folders(paths.CACHE / "tables", "*") if folder.name not in suites]
    partial = [("partial", folder) for folder in _folders(paths.RESULTS / "partial", "*")]
    arrays = [
        ("arrays", folder)
        for folder in _folders(paths.PREPARED, "*/*")
        if (folder.parent.name, folder.name) not in data_keys
    ]
    found = [Leftover(kind, folder, _size(folder)) for kind, folder in (*jobs, *tables, *partial, *arrays)]
    return sorted(found, key=lambda item: (-item.size, item.path))


def _folders(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _data_keys(needed: set[Key]) -> set[tuple[str, str]]:
    """Return (data set, key of its arrays) of the prepared data that needed results were made from."""
    keys = set()
    for stage, name, key in needed:
        place = Path(stage, name, key)
        for folder in (paths.RESULTS / place, paths.CACHE / place / "result"):
            manifest = folder / "manifest.json"
            if stage == "prepare" and manifest.exists():
                keys.add((name, json.loads(manifest.read_text(encoding="utf-8"))["data_key"]))
    return keys


def delete(items: Iterable[Leftover]) -> tuple[list[Leftover], list[Leftover]]:
    """Delete leftovers; returns those deleted and those that a running job uses."""
    deleted, used = [], []
    for item in items:
        try:
            with FileLock(item.path / ".lock", timeout=0):
                shutil.rmtree(item.path)
        except Timeout:
            used.append(item)
            continue
        deleted.append(item)
        if item.path.parent.is_dir() and not any(item.path.parent.iterdir()):
            item.path.parent.rmdir()
    return deleted, used


def described(items: list[Leftover], *, deleted: bool) -> str:
    """Return leftovers as text: size, kind, path, and the sum."""
    if not items:
        return "nothing to delete: all that is here is needed by a suite or recorded in a branch, tag or experiment"
    lines = [f"{_readable(item.size):>9}  {item.kind:<8}  {item.path}" for item in items]
    total = f"{_readable(sum(item.size for item in items)):>9}  in {len(items)} folders"
    end = "deleted" if deleted else "nothing was deleted; 'fewshot prune --delete' deletes these"
    return "\n".join([*lines, total, end])


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
