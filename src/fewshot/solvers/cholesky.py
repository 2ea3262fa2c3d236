"""Linear systems whose matrix has been factorised, on any device."""

import torch
from torch import Tensor


def solve_factorised(factor: Tensor, right: Tensor) -> Tensor:
    """Return X with L L^T X = B for the lower Cholesky factor L (..., n, n) and B (..., n, k).

    On accelerators by two triangular solves: torch's own function calls MAGMA there, which allocates memory while a
    recorded step (a CUDA graph) must not.
    """
    if factor.device.type == "cpu":
        return torch.cholesky_solve(right, factor)
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)
