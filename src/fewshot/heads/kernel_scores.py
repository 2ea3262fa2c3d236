"""Scores of a classifier that sees the support images only through their kernel, as one autograd function.

Shapes: T episodes, M ways, S support images, Q query images in all, d features. With X the support, Z the query
embeddings and A the coefficients (M, S) that a fit returns for the kernel K = X X^T:

    weights  W = A X  (M, d)          scores = Z W^T  (Q, M)

Neither Z X^T nor any (S, Q, M) product is formed. Backward, for g = d loss / d scores, from one solve with the factors
the fit kept (`adjoint`, which gives V with d loss / d K = -(V^T A + A^T V) / 2 for the gradient G of A):

    dZ = g W      dW = g^T Z      G = dW X^T      dX = A^T (dW - V X) - V^T W
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Adjoint = Callable[[Tensor], Tensor]
"""Gradient of the coefficients (T, M, S) -> V (T, M, S)."""

Fit = Callable[[Tensor], tuple[Tensor, Adjoint]]
"""Kernel (T, S, S) -> coefficients (T, M, S) and their adjoint."""


def kernel_scores(support: Tensor, query: Tensor, fit: Fit) -> Tensor:
    """Return the scores (T, Q, M) of embeddings (T, S, d) and (T, Q, d) by the classifier that `fit` finds."""
    scores: Tensor = _KernelScores.apply(support, query, fit)
    return scores


def refuse_second_derivative(what: str) -> None:
    """Raise `RuntimeError` if a backward pass is being recorded (``create_graph=True``)."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{what} has no second derivative; call backward() or autograd.grad() with create_graph=False (the default)"
        )


class _KernelScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, support: Tensor, query: Tensor, fit: Fit) -> Tensor:
        coefficients, ctx.adjoint = fit(torch.bmm(support, support.mT))
        coefficients = coefficients.to(support.dtype)
        weights = torch.bmm(coefficients, support)
        ctx.save_for_backward(support, query, coefficients, weights)
        return torch.bmm(query, weights.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative("this head")
        support, query, coefficients, weights = ctx.saved_tensors
        weights_gradient = torch.bmm(gradient.mT, query)
        adjoint = ctx.adjoint(torch.bmm(weights_gradient, support.mT)).to(support.dtype)
        left = torch.cat([coefficients, adjoint], 1)
        right = torch.cat([weights_gradient.baddbmm_(adjoint, support, alpha=-1), -weights], 1)
        return torch.bmm(left.mT, right), torch.bmm(gradient, weights), None
