"""The linear system behind every step of the Crammer-Singer solvers, in batched torch.

Shapes: T problems, S samples, M classes. For each class m a positive semi-definite block Z_m (S, S):

    x_m = Z_m (r_m - nu)  for every class m,      sum_m x_m = c

so nu solves the Schur complement system (sum_m Z_m) nu = sum_m Z_m r_m - c. No matrix larger than (S, S) is factorised.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .cholesky import solve_factorised

PACK_FROM = 40
"""Fewest samples at which packing the free entries pays off on the CPU (measured; below, indexing costs too much)."""

PACK_BELOW = 0.8
"""Share of free entries below which packing pays off."""


class SaddleFactors(NamedTuple):
    """Blocks Z (T, M, S, S) and the lower Cholesky factor (T, S, S) of their sum over classes."""

    blocks: Tensor
    schur: Tensor

    def solve(self, right: Tensor, row_sums: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x (T, M, S) and nu (T, S) for r = `right` (T, M, S) and c = `row_sums` (T, S), zero if None."""
        product = (self.blocks @ right.unsqueeze(3)).squeeze(3)
        total = product.sum(1) if row_sums is None else product.sum(1) - row_sums
        nu = solve_factorised(self.schur, total.unsqueeze(2))
        return product - (self.blocks @ nu.unsqueeze(1)).squeeze(3), nu.squeeze(2)

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Return V (T, M, S) with d loss / d kernel = -(V^T A + A^T V) / 2 for the gradient (T, M, S) of A = alpha."""
        return self.solve(gradient.to(self.blocks.dtype))[0]


def on_host(tensor: Tensor) -> bool:
    """Return whether the host can read a tensor without synchronising with another device."""
    return tensor.device.type == "cpu"


def inverse_blocks(matrix: Tensor, diagonal: Tensor) -> SaddleFactors:
    """Return the factors with Z_m = (matrix + diag(diagonal_m))^-1 for matrix (T, S, S), diagonal (T, M, S)."""
    return _finish(_invert(matrix.unsqueeze(1) + torch.diag_embed(diagonal)))


def free_blocks(matrix: Tensor, free: Tensor) -> SaddleFactors:
    """Return the factors with Z_m = inverse of matrix (T, S, S) on the free entries (T, M, S), zero elsewhere."""
    n_samples = matrix.shape[1]
    if on_host(matrix):  # on an accelerator these two reads would synchronise
        if bool(free.all()):
            return _finish(_invert(matrix).unsqueeze(1).expand(-1, free.shape[1], -1, -1))
        widest = int(free.sum(2).max())
        if n_samples >= PACK_FROM and widest < PACK_BELOW * n_samples:
            return _finish(_packed_inverses(matrix, free, widest))
    return _finish(_masked_inverses(matrix.unsqueeze(1), free))


def _masked_inverses(matrices: Tensor, free: Tensor) -> Tensor:
    """Return the inverses of matrices (T, M, n, n) on the free entries (T, M, n), zero elsewhere."""
    mask = free.to(matrices.dtype)
    masked = matrices * mask.unsqueeze(3) * mask.unsqueeze(2)
    masked.diagonal(dim1=2, dim2=3).add_(1 - mask)
    inverses = _invert(masked)
    inverses.diagonal(dim1=2, dim2=3).sub_(1 - mask)
    return inverses


def _packed_inverses(matrix: Tensor, free: Tensor, widest: int) -> Tensor:
    """Return the same, computed at the size of the largest free set, since factorising is cubic in the size."""
    rows = free.to(torch.uint8).argsort(dim=2, descending=True, stable=True)[:, :, :widest]
    problem = torch.arange(len(matrix), device=matrix.device)[:, None, None, None]
    way = torch.arange(free.shape[1], device=matrix.device)[:, None, None]
    packed = _masked_inverses(matrix[problem, rows.unsqueeze(3), rows.unsqueeze(2)], free.gather(2, rows))
    inverses = matrix.new_zeros(*free.shape, free.shape[2])
    inverses[problem, way, rows.unsqueeze(3), rows.unsqueeze(2)] = packed
    return inverses


def _invert(matrices: Tensor) -> Tensor:
    """Invert positive definite matrices; faster than `torch.cholesky_inverse` on the CPU."""
    factor = torch.linalg.cholesky_ex(matrices).L
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device).expand_as(factor)
    half = torch.linalg.solve_triangular(factor, identity, upper=False)
    return half.mT @ half


def _finish(blocks: Tensor) -> SaddleFactors:
    return SaddleFactors(blocks, torch.linalg.cholesky_ex(blocks.sum(1)).L)
