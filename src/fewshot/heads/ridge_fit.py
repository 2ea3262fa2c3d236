"""Kernel ridge regression on one-hot targets, by Cholesky in float64."""

import torch
from torch import Tensor

from fewshot.checks import holds
from fewshot.errors import NumericalError
from fewshot.heads.kernel_scores import Adjoint
from fewshot.solvers.cholesky import solve_factorised


def ridge_fit(kernel: Tensor, labels: Tensor, n_way: int, ridge: float, target_scale: float) -> tuple[Tensor, Adjoint]:
    """Return target_scale * (K + ridge I)^-1 Y and its adjoint.

    Args:
        kernel: K, (T, S, S), symmetric, positive semi-definite.
        labels: class of each sample, (T, S).
        n_way: M, number of classes.
        ridge: lambda > 0.
        target_scale: factor of the one-hot targets Y.

    Returns:
        Coefficients (T, S, M) and the function G -> (K + ridge I)^-1 G, both float64.

    Raises:
        NumericalError: if K + ridge I is not numerically positive definite (non-finite or far too large embeddings).
    """
    matrix = kernel.double()
    if matrix is kernel:
        matrix = kernel.clone()
    matrix.diagonal(dim1=1, dim2=2).add_(ridge)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not holds(info == 0):
        raise NumericalError(
            f"the support kernel + {ridge} I of an episode cannot be factorised: the embeddings are not finite or too "
            f"large (largest kernel entry {kernel.abs().max().item():.3g})"
        )
    targets = torch.zeros(*labels.shape, n_way, dtype=torch.float64, device=kernel.device)
    targets.scatter_(2, labels.unsqueeze(2), target_scale)

    def adjoint(gradient: Tensor) -> Tensor:
        return solve_factorised(factor, gradient.double())

    return solve_factorised(factor, targets), adjoint
