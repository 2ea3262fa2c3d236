"""Where a job runs: CPU threads and GPUs. One free GPU a job, held by a file lock that dies with the process."""

import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from fewshot.allocator import keep_freed_memory
from fewshot.errors import ResourceError

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
    if "SLURM_JOB_ID" in os.environ:
        return torch.device("cuda", 0), None  # the cluster has already chosen
    index, lock = claim_slot([str(i) for i in range(torch.cuda.device_count())], jobs_per_gpu)
    return torch.device("cuda", int(index)), lock


def claim_slot(pool: list[str], jobs_per_device: int, folder: Path | None = None) -> tuple[str, FileLock]:
    """Wait for a free slot of the pool and lock it; slots of idle devices are taken before second slots.

    The locks lie in the machine's temporary folder, so jobs of several projects and users' sessions see each other.
    """
    folder = folder or Path(tempfile.gettempdir()) / "fewshot-devices"
    folder.mkdir(parents=True, exist_ok=True)
    physical = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = physical if len(physical) == len(pool) and physical != [""] else pool
    while True:
        for slot in range(jobs_per_device):
            for device, name in zip(pool, names, strict=True):
                lock = FileLock(folder / f"gpu-{name}-slot-{slot}.lock")
                try:
                    lock.acquire(timeout=0.2)
                except Timeout:
                    continue
                return device, lock


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
