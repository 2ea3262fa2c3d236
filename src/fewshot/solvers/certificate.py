"""Distance of a point from the optimum of the Crammer-Singer dual, computed from the point alone."""

import torch
from torch import Tensor

from .problem import Problem, check_tensors


def kkt_residual(
    kernel: Tensor, labels: Tensor, alpha: Tensor, bound: float = 0.1, diagonal_shift: float = 1.0
) -> Tensor:
    """Return the relative KKT residual of dual variables from any source; inf where alpha is not finite.

    With G = (K + shift I) alpha and one-hot labels Y, the multiplier of the upper bound implied by alpha is
    mu_im = max_k (G - Y)_ik - (G - Y)_im >= 0. At the optimum, alpha <= bound Y, alpha sums to zero over the classes,
    and in each entry either the slack bound Y - alpha or mu is zero. The residual is the largest violation of these
    conditions: slacks and sums in units of max |alpha|, multipliers in units of max(1, max |G|).

    Args:
        kernel: K, (T, S, S), or (S, S) for a single problem.
        labels: class of each sample, integers 0 .. M - 1, (T, S) or (S,); every class must occur.
        alpha: (T, S, M) or (S, M), floating point.
        bound: C, greater than 0.
        diagonal_shift: added to the diagonal of K, 0 or more.

    Returns:
        (T,) float64; () for a single problem.

    Raises:
        TypeError: if the kernel, the labels or alpha are no tensor, or another argument is no number.
        ValueError: if an argument has a wrong shape, dtype or value.

    >>> kernel, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> kkt_residual(kernel, labels, torch.tensor([[0.1, -0.1], [-0.1, 0.1]])).item() < 1e-6
    True
    >>> round(kkt_residual(kernel, labels, torch.tensor([[0.1, -0.1], [-0.1, 0.05]])).item(), 3)
    0.5
    """
    check_tensors(kernel=kernel, labels=labels, alpha=alpha)
    if alpha.shape[:-1] != labels.shape or not alpha.is_floating_point():
        raise ValueError(
            f"alpha has shape {tuple(alpha.shape)} and dtype {alpha.dtype}; allowed: floating point of shape "
            f"({', '.join(map(str, labels.shape))}, classes)"
        )
    problem = Problem(kernel, labels, alpha.shape[-1], bound, diagonal_shift)
    problem.check()
    residual = relative_residual(problem.batched(), (alpha.unsqueeze(0) if alpha.dim() == 2 else alpha).mT)
    return residual[0] if kernel.dim() == 2 else residual


def relative_residual(problem: Problem, alpha: Tensor) -> Tensor:
    """Return `kkt_residual` (T,) of alpha (T, M, S) without validating anything."""
    alpha, matrix = alpha.detach().double(), problem.kernel.detach().double()
    targets = torch.zeros_like(alpha).scatter_(1, problem.labels.unsqueeze(1), 1.0)
    product = alpha @ (0.5 * (matrix + matrix.mT)) + problem.diagonal_shift * alpha
    largest = alpha.abs().amax((1, 2), keepdim=True)
    gradient = product - targets
    multiplier = (gradient.amax(1, keepdim=True) - gradient) / product.abs().amax((1, 2), keepdim=True).clamp(min=1.0)
    slack = (problem.bound * targets - alpha) / largest
    worst = torch.maximum(-slack, torch.minimum(slack, multiplier)).amax((1, 2))
    worst = torch.maximum(worst, (alpha.sum(1).abs() / largest[:, 0]).amax(1))
    return torch.where(torch.isfinite(worst), worst, torch.inf)
