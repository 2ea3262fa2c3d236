"""Kernel logistic regression with an intercept, by Newton's method in float64, batched over episodes.

With the kernel K = X X^T, coefficients A (S, M), intercept b (M) and probabilities P = softmax(K A + b), the minimum of

    f(A, b) = tr(A^T K A) / (2 C) + sum of the cross-entropies

is where A / C + P - Y = 0 and the column sums of P - Y are 0. Both are solved as one system g(A, b) = 0: it is regular
even where K is singular, as with duplicate images. Its last M equations get the mean of b added, which keeps that mean,
on which P does not depend, at 0.

Shapes: T episodes, M ways, S support images.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot.errors import NumericalError

TOLERANCE = 1e-10
MAX_ITERATIONS = 100
MAX_HALVINGS = 40
DESCENT = 1e-4  # share of the linear decrease that a step must reach (Armijo)
SYSTEM_BYTES = 2**27


class LogisticFit(NamedTuple):
    """Fitted classifiers; the scores of z are z X^T coefficients + intercept.

    Attributes:
        coefficients: A, (T, S, M) float64.
        intercept: b, (T, M) float64, with mean 0.
        residual: largest absolute entry of g, (T,).
        converged: whether it is at most 1e-10, (T,) bool.
    """

    coefficients: Tensor
    intercept: Tensor
    residual: Tensor
    converged: Tensor


def logistic_fit(kernel: Tensor, labels: Tensor, n_way: int, loss_weight: float) -> LogisticFit:
    """Fit a logistic regression to each episode; differentiable once in the kernel.

    Args:
        kernel: K, (T, S, S), symmetric, positive semi-definite.
        labels: class of each sample, (T, S).
        n_way: M, number of classes.
        loss_weight: C > 0, factor of the cross-entropy, summed over the support images, against half the squared norm.

    Raises:
        NumericalError: if the kernel is not finite.

    Source: Newton's method for the multinomial model as in Bishop, "Pattern Recognition and Machine Learning", 2006,
    section 4.3.4; derivative by the implicit function theorem.
    """
    if not kernel.detach().isfinite().all():
        raise NumericalError(
            "the support kernel of an episode is not finite: the embeddings are too large or not finite"
        )
    targets = one_hot(labels, n_way).double()
    at_once = max(1, SYSTEM_BYTES // (8 * ((labels.shape[1] + 1) * n_way) ** 2))
    parts = [
        LogisticFit(*_Fit.apply(some.double(), own, loss_weight))
        for some, own in zip(kernel.split(at_once), targets.split(at_once), strict=True)
    ]
    return LogisticFit(*(torch.cat(values) for values in zip(*parts, strict=True)))


class _Fit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Tensor, targets: Tensor, loss_weight: float) -> tuple[Tensor, ...]:
        solution = _newton(kernel, targets, loss_weight)
        residual = _equations(kernel, targets, loss_weight, solution).abs().amax((1, 2))
        ctx.loss_weight = loss_weight
        ctx.save_for_backward(kernel, solution)
        ctx.mark_non_differentiable(residual)
        return solution[:, :-1], solution[:, -1], residual, residual <= TOLERANCE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this head has no second derivative; call backward() or autograd.grad() with create_graph=False"
            )
        kernel, solution = ctx.saved_tensors
        wanted = torch.cat([gradients[0], gradients[1].unsqueeze(1)], 1)
        system = _jacobian(kernel, solution, ctx.loss_weight)
        adjoint = torch.linalg.solve(system.mT, wanted.flatten(1)).unflatten(1, wanted.shape[1:])
        v = _apply_curvature(_probabilities(kernel, solution), adjoint[:, :-1] + adjoint[:, -1:])
        product = torch.bmm(v, solution[:, :-1].mT)
        return -(product + product.mT) / 2, None, None


def _newton(kernel: Tensor, targets: Tensor, loss_weight: float) -> Tensor:
    """Return A and, as a last row, b: (T, S + 1, M)."""
    solution = torch.zeros(len(kernel), kernel.shape[1] + 1, targets.shape[2], dtype=kernel.dtype, device=kernel.device)
    for _ in range(MAX_ITERATIONS):
        wrong = _equations(kernel, targets, loss_weight, solution)
        if bool((wrong.abs() <= TOLERANCE).all()):
            break
        system = _jacobian(kernel, solution, loss_weight)
        step = -torch.linalg.solve(system, wrong.flatten(1)).unflatten(1, wrong.shape[1:])
        solution = solution + _step_length(kernel, targets, loss_weight, solution, step, wrong) * step
    return solution


def _step_length(
    kernel: Tensor, targets: Tensor, loss_weight: float, solution: Tensor, step: Tensor, wrong: Tensor
) -> Tensor:
    """Return the largest of 1, 1/2, 1/4, ... that decreases f enough in each episode, (T, 1, 1)."""
    before = _objective(kernel, targets, loss_weight, solution)
    gradient = torch.cat([torch.bmm(kernel, wrong[:, :-1]), wrong[:, -1:]], 1)
    slope = (gradient * step).sum((1, 2))
    length = torch.ones_like(before)
    for _ in range(MAX_HALVINGS):
        after = _objective(kernel, targets, loss_weight, solution + length[:, None, None] * step)
        rounding = 1e-13 * before.abs()
        too_long = after > before + DESCENT * length * slope + rounding
        if not bool(too_long.any()):
            break
        length = torch.where(too_long, length / 2, length)
    return length[:, None, None]


def _scores(kernel: Tensor, solution: Tensor) -> Tensor:
    """Return K A + b, (T, S, M)."""
    return torch.bmm(kernel, solution[:, :-1]) + solution[:, -1:]


def _probabilities(kernel: Tensor, solution: Tensor) -> Tensor:
    """Return P, (T, S, M)."""
    return _scores(kernel, solution).softmax(2)


def _objective(kernel: Tensor, targets: Tensor, loss_weight: float, solution: Tensor) -> Tensor:
    """Return f, (T,)."""
    scores, coefficients = _scores(kernel, solution), solution[:, :-1]
    losses = scores.logsumexp(2) - (scores * targets).sum(2)
    return (coefficients * torch.bmm(kernel, coefficients)).sum((1, 2)) / (2 * loss_weight) + losses.sum(1)


def _equations(kernel: Tensor, targets: Tensor, loss_weight: float, solution: Tensor) -> Tensor:
    """Return g, (T, S + 1, M)."""
    excess = _probabilities(kernel, solution) - targets
    for_intercept = excess.sum(1, keepdim=True) + solution[:, -1:].mean(2, keepdim=True)
    return torch.cat([solution[:, :-1] / loss_weight + excess, for_intercept], 1)


def _apply_curvature(p: Tensor, direction: Tensor) -> Tensor:
    """Return (diag(p) - p p^T) d for the probabilities p and direction d of each support image, (T, S, M)."""
    weighted = p * direction
    return weighted - p * weighted.sum(2, keepdim=True)


def _jacobian(kernel: Tensor, solution: Tensor, loss_weight: float) -> Tensor:
    """Return the derivative of g by A and b, (T, (S + 1) M, (S + 1) M)."""
    p = _probabilities(kernel, solution)
    curvature = torch.diag_embed(p) - p.unsqueeze(3) * p.unsqueeze(2)  # (T, S, M, M)
    extended = torch.cat([kernel, torch.ones_like(kernel[:, :, :1])], 2)  # (T, S, S + 1)
    of_samples = curvature.unsqueeze(3) * extended[:, :, None, :, None]  # (T, S, M, S + 1, M)
    system = torch.cat([of_samples, of_samples.sum(1, keepdim=True)], 1)
    system[:, -1, :, -1] += 1 / p.shape[2]
    system = system.flatten(3, 4).flatten(1, 2)
    of_coefficients = system.diagonal(dim1=1, dim2=2)[:, : -p.shape[2]]
    of_coefficients += 1 / loss_weight
    return system
