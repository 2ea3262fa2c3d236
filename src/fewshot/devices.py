"""Where a job runs: CPU threads and GPUs. One free GPU a job, held by a file lock that dies with the process."""

import os
import platform
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from fewshot.allocator import keep_freed_memory
from fewshot.errors import ResourceError
from fewshot.progress import say

RECORDED_PACKAGES = ("torch", "numpy", "numba", "scipy", "pandas", "pillow")


def limit_threads(threads: int) -> None:
    """Use this many CPU threads; the sums of one job then do not depend on how many jobs run beside it."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def claim_device(wanted: str, jobs_per_gpu: int = 1) -> tuple[torch.device, object]:
    """Return a device and a lock; keep the lock as long as the device is used.

    Args:
        wanted: "cpu", "cuda" or "auto" (a GPU if there is one).
        jobs_per_gpu: how many jobs may share one GPU.

    Raises:
        ResourceError: if "cuda" is wanted and torch sees no GPU.
    """
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            raise ResourceError("train.device is 'cuda', but torch sees no GPU; set it to auto or cpu in params.yaml")
        return torch.device("cpu"), None
    index, lock = claim_slot([str(i) for i in range(torch.cuda.device_count())], jobs_per_gpu)
    return torch.device("cuda", int(index)), lock


def claim_slot(pool: list[str], jobs_per_device: int, folder: Path | None = None) -> tuple[str, FileLock]:
    """Wait for a free slot of the pool and lock it; slots of idle devices are taken before second slots.

    The locks lie in the machine's temporary folder, so that jobs of all projects and users of the machine see each
    other; a lock ends with its process, however that ends.

    Args:
        pool: devices as this process counts them.
        jobs_per_device: slots of each.
        folder: of the locks.
    """
    folder = folder or Path(tempfile.gettempdir()) / "fewshot-devices"
    _shared_folder(folder)
    names, waited = physical_names(pool), False
    while True:
        for slot in range(jobs_per_device):
            for device, name in zip(pool, names, strict=True):
                lock = FileLock(folder / f"gpu-{name}-slot-{slot}.lock", mode=0o666)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return device, lock
        if not waited:
            say(f"waiting for a free GPU: all {len(pool) * jobs_per_device} places are taken (train.jobs_per_gpu)")
            waited = True
        time.sleep(0.5)


def physical_names(pool: list[str]) -> list[str]:
    """Return names that mean the same device to every process that can collide with this one.

    `CUDA_VISIBLE_DEVICES` renumbers devices, so its entries are the names. In an allocation of Slurm the numbers may
    start at 0 for every job, while devices are already its own: names hold only within the allocation.
    """
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = visible if len(visible) == len(pool) else pool
    allocation = os.environ.get("SLURM_JOB_ID")
    return [f"slurm{allocation}-{name}" for name in names] if allocation else names


def _shared_folder(folder: Path) -> None:
    """Make a folder in which every user of the machine may lock."""
    with suppress(OSError):  # another user has made it, with the same rights
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)


def describe(device: torch.device) -> dict[str, Any]:
    """Return machine, threads and package versions, for run.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": recorded_versions(),
    }


def recorded_versions() -> dict[str, str]:
    """Return the versions of the packages that compute numbers."""
    return {name: version(name) for name in RECORDED_PACKAGES}
