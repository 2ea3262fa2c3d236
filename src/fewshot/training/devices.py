"""Where a job runs: CPU threads and GPUs. Each job claims a free GPU with a file lock that ends with its process."""

import os
import platform
import re
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from fewshot.errors import ResourceError
from fewshot.progress import say
from fewshot.training.allocator import keep_freed_memory

RECORDED_PACKAGES = ("torch", "numpy", "numba", "scipy", "pandas", "pillow")


def limit_threads(threads: int) -> None:
    """Use this many CPU threads, so that a job's sums do not depend on how many jobs run at the same time."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def claim_devices(
    wanted: str, count: int, jobs_per_gpu: int = 1, folder: Path | None = None
) -> tuple[list[torch.device], object]:
    """Claim several devices for one job, all different (on a CPU: all the same); return them and their locks.

    Only one job at a time claims several GPUs: two jobs that each hold some and wait for the rest would deadlock.

    Args:
        wanted: "cpu", "cuda" or "auto" (GPUs if there are any).
        count: number of devices.
        jobs_per_gpu: how many jobs may share one GPU.
        folder: where the locks are; by default the folder shared by all jobs on the machine.

    Raises:
        ResourceError: if "cuda" is wanted and torch sees no GPU, or there are fewer GPUs than `count`.
    """
    if count == 1:
        device, lock = claim_device(wanted, jobs_per_gpu)
        return [device], lock
    if not _uses_gpu(wanted):
        return [torch.device("cpu")] * count, None
    pool = [str(i) for i in range(torch.cuda.device_count())]
    if count > len(pool):
        raise ResourceError(
            f"the recipe's devices: {count} needs {count} GPUs, but torch sees {len(pool)}; lower it, or make more "
            "visible to the job (CUDA_VISIBLE_DEVICES), or set train.device: cpu"
        )
    folder = folder or _lock_folder()
    _shared_folder(folder)
    locks: dict[str, FileLock] = {}
    with _only_one(folder / f"several{os.environ.get('SLURM_JOB_ID', '')}.lock"):
        while len(locks) < count:
            index, lock = claim_slot(pool, jobs_per_gpu, folder, taken=locks)
            locks[index] = lock
    return [torch.device("cuda", int(index)) for index in sorted(locks, key=int)], locks


def claim_device(wanted: str, jobs_per_gpu: int = 1) -> tuple[torch.device, object]:
    """Claim one device; return it and its lock, which must be kept while the device is used.

    Args:
        wanted: "cpu", "cuda" or "auto" (a GPU if there is one).
        jobs_per_gpu: how many jobs may share one GPU.

    Raises:
        ResourceError: if "cuda" is wanted and torch sees no GPU.
    """
    if not _uses_gpu(wanted):
        return torch.device("cpu"), None
    index, lock = claim_slot([str(i) for i in range(torch.cuda.device_count())], jobs_per_gpu)
    return torch.device("cuda", int(index)), lock


def _uses_gpu(wanted: str) -> bool:
    """Return whether a job computes on a GPU."""
    available = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ResourceError("train.device is 'cuda', but torch sees no GPU; set it to auto or cpu in params.yaml")
    return available


def claim_slot(
    pool: list[str], jobs_per_device: int, folder: Path | None = None, taken: Collection[str] = ()
) -> tuple[str, FileLock]:
    """Wait for a free slot in the pool and lock it; idle devices come before second slots of busy ones.

    The locks are stored in the machine's temporary folder, where jobs of all projects and users see each other; a lock
    is released when its process ends, however it ends.

    Args:
        pool: devices as this process numbers them.
        jobs_per_device: slots per device.
        folder: where the locks are; by default the folder shared by all jobs on the machine.
        taken: devices of the pool that this job already holds.
    """
    folder = folder or _lock_folder()
    _shared_folder(folder)
    names, waited = physical_names(pool), False
    while True:
        for slot in range(jobs_per_device):
            for device, name in zip(pool, names, strict=True):
                if device in taken:
                    continue
                lock = FileLock(folder / f"gpu-{name}-slot-{slot}.lock", mode=0o666)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return device, lock
        if not waited:
            say(f"waiting for a free GPU: all {len(pool) * jobs_per_device} slots are taken (train.jobs_per_gpu)")
            waited = True
        time.sleep(0.5)


def physical_names(pool: list[str]) -> list[str]:
    """Return names that identify the same device for every process that can compete for it: the cards' UUIDs.

    Without UUIDs, the names are the entries of `CUDA_VISIBLE_DEVICES`, which renumbers devices. In a Slurm allocation
    the numbers may start at 0 in every job, although its devices are reserved: such names are valid only within it.
    """
    uuids = [_uuid(int(device)) for device in pool]
    if all(uuids):
        return [re.sub(r"[^A-Za-z0-9]+", "-", uuid) for uuid in uuids]
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = visible if len(visible) == len(pool) else pool
    allocation = os.environ.get("SLURM_JOB_ID")
    names = [re.sub(r"[^A-Za-z0-9]+", "-", name) for name in names]  # a MIG slice is named with slashes
    return [f"slurm{allocation}-{name}" for name in names] if allocation else names


def _uuid(index: int) -> str:
    """Return the UUID of a GPU or MIG slice; "" if the driver gives none."""
    try:
        return str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
    except (RuntimeError, AssertionError):
        return ""


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Let only one job at a time claim several GPUs."""
    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another job that is collecting several GPUs")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_folder() -> Path:
    """Return the folder where all jobs on this machine lock devices."""
    return Path(tempfile.gettempdir()) / "fewshot-devices"


def _shared_folder(folder: Path) -> None:
    """Create a folder in which every user of the machine may create locks."""
    with suppress(OSError):  # already created by another user, with the same permissions
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)


def describe(device: torch.device) -> dict[str, Any]:
    """Return device, threads, instruction set and package versions, for run.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": recorded_versions(),
    }


def recorded_versions() -> dict[str, str]:
    """Return the versions of the packages that can affect results."""
    return {name: version(name) for name in RECORDED_PACKAGES}
