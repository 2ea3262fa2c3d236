"""How far a point is from the optimum of the Crammer-Singer dual, computed from the point alone."""

import torch
from torch import Tensor


def kkt_residual(kernel: Tensor, labels: Tensor, alpha: Tensor, bound: float, diagonal_shift: float) -> Tensor:
    """Return the relative KKT residual of each problem, (T,) float64; inf where alpha is not finite.

    With G = alpha (K + shift I), the multiplier of the upper bound that goes with alpha is
    mu_mi = max_k (G - Y)_ki - (G - Y)_mi >= 0. At the optimum alpha <= bound Y, the sum over classes is zero, and of
    the slack bound Y - alpha and mu one is zero in each entry. The residual is the largest violation of any of these,
    slack and sums in units of max |alpha|, multipliers in units of max(1, max |G|).

    Args:
        kernel: K, (T, S, S).
        labels: (T, S).
        alpha: (T, M, S), class by class.
        bound: C.
        diagonal_shift: added to the diagonal of K.
    """
    alpha, matrix = alpha.detach().double(), kernel.detach().double()
    targets = torch.zeros_like(alpha).scatter_(1, labels.unsqueeze(1), 1.0)
    product = alpha @ (0.5 * (matrix + matrix.mT)) + diagonal_shift * alpha
    largest = alpha.abs().amax((1, 2), keepdim=True)
    gradient = product - targets
    multiplier = (gradient.amax(1, keepdim=True) - gradient) / product.abs().amax((1, 2), keepdim=True).clamp(min=1.0)
    slack = (bound * targets - alpha) / largest
    worst = torch.maximum(-slack, torch.minimum(slack, multiplier)).amax((1, 2))
    worst = torch.maximum(worst, (alpha.sum(1).abs() / largest[:, 0]).amax(1))
    return torch.where(torch.isfinite(worst), worst, torch.inf)
