"""How GPUs compute, which results depend on: full float32 products, and kernels that give the same bits every time.

These settings change nothing on a CPU. cuBLAS also needs a fixed workspace, which must be set before CUDA starts
(`CUBLAS_WORKSPACE_CONFIG`, see `fewshot.cli`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# By default, torch lets convolutions round float32 to TensorFloat-32, and cuDNN may use kernels with atomic additions.
FLAGS = (
    (torch.backends.cuda.matmul, "allow_tf32", False),
    (torch.backends.cudnn, "allow_tf32", False),
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)


def reproducible_arithmetic() -> None:
    """Multiply float32 numbers in full precision with deterministic kernels, for the rest of the process."""
    for owner, flag, value in FLAGS:
        setattr(owner, flag, value)


@contextmanager
def as_evaluated() -> Iterator[None]:
    """Compute as evaluations do within a `with` block; then restore the caller's settings."""
    before = [getattr(owner, flag) for owner, flag, _ in FLAGS]
    reproducible_arithmetic()
    try:
        yield
    finally:
        for (owner, flag, _), value in zip(FLAGS, before, strict=True):
            setattr(owner, flag, value)
