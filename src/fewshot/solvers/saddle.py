"""The linear system that every step of the Crammer-Singer solvers comes down to, in batched torch.

Shapes: T problems, S samples, M classes. For each class m a positive semi-definite block Z_m (S, S):

    x_m = Z_m (r_m - nu)  for every class m,      sum_m x_m = c

so nu solves the Schur complement system (sum_m Z_m) nu = sum_m Z_m r_m - c. Nothing larger than (S, S) is factorised.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SaddleFactors(NamedTuple):
    """Blocks Z (T, M, S, S) and the lower Cholesky factor (T, S, S) of their sum over the classes."""

    blocks: Tensor
    schur: Tensor

    def solve(self, right: Tensor, row_sums: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x (T, M, S) and nu (T, S) for r (T, M, S) and c (T, S), zero if None."""
        product = (self.blocks @ right.unsqueeze(3)).squeeze(3)
        total = product.sum(1) if row_sums is None else product.sum(1) - row_sums
        nu = torch.cholesky_solve(total.unsqueeze(2), self.schur)
        return product - (self.blocks @ nu.unsqueeze(1)).squeeze(3), nu.squeeze(2)

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Return V (T, M, S) with d loss / d kernel = -(V^T A + A^T V) / 2, for the gradient (T, M, S) of A = alpha."""
        return self.solve(gradient.to(self.blocks.dtype))[0]


def inverse_blocks(matrix: Tensor, diagonal: Tensor) -> SaddleFactors:
    """Return the factors with Z_m = (matrix + diag(diagonal_m))^-1 for matrix (T, S, S), diagonal (T, M, S)."""
    return _finish(_invert(matrix.unsqueeze(1) + torch.diag_embed(diagonal)))


def free_blocks(matrix: Tensor, free: Tensor) -> SaddleFactors:
    """Return the factors with Z_m = inverse of matrix (T, S, S) on the free entries (T, M, S), zero elsewhere."""
    mask = free.to(matrix.dtype)
    masked = matrix.unsqueeze(1) * mask.unsqueeze(3) * mask.unsqueeze(2)
    masked.diagonal(dim1=2, dim2=3).add_(1 - mask)
    blocks = _invert(masked)
    blocks.diagonal(dim1=2, dim2=3).sub_(1 - mask)
    return _finish(blocks)


def _invert(blocks: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(blocks).L)


def _finish(blocks: Tensor) -> SaddleFactors:
    return SaddleFactors(blocks, torch.linalg.cholesky_ex(blocks.sum(1)).L)
