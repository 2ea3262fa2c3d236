"""How GPUs compute, which results depend on: the precision of the recipe, and kernels that repeat their bits.

These settings change nothing on a CPU. cuBLAS also needs a fixed workspace, which must be set before CUDA starts
(`CUBLAS_WORKSPACE_CONFIG`, see `fewshot.cli.computing`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# By default, torch lets convolutions round float32 to TensorFloat-32, and cuDNN may use kernels with atomic additions.
# Products of matrices, which heads and solvers consist of, are never rounded.
FLAGS = (
    (torch.backends.cuda.matmul, "allow_tf32", False),
    (torch.backends.cudnn, "allow_tf32", False),
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)


def reproducible_arithmetic(precision: str = "float32") -> None:
    """Compute in the precision of a recipe, with deterministic kernels, for the rest of the process.

    Args:
        precision: with "tf32", convolutions round the float32 numbers they multiply to TensorFloat-32 (10 bits after
            the binary point, summed in float32) on GPUs that have it; "bfloat16" is the learner's own affair.
    """
    for owner, flag, value in FLAGS:
        setattr(owner, flag, value)
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def as_evaluated(precision: str = "float32") -> Iterator[None]:
    """Compute as evaluations do within a `with` block; then restore the caller's settings."""
    before = [getattr(owner, flag) for owner, flag, _ in FLAGS]
    reproducible_arithmetic(precision)
    try:
        yield
    finally:
        for (owner, flag, _), value in zip(FLAGS, before, strict=True):
            setattr(owner, flag, value)
