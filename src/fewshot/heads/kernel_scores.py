"""Scores of a classifier that depends on the support images only through their kernel, as one autograd function.

Shapes: T episodes, M ways, S support images, Q query images in all, d features. Let X be the support embeddings, Z the
query embeddings and A (S, M) the coefficients that a fit returns for the kernel K = X X^T:

    weights  W = A^T X  (M, d)          scores = Z W^T  (Q, M), plus the sums of A over S if the kernel has a bias

Neither Z X^T nor any (S, Q, M) product is formed. For the gradient G = d loss / d A, the fit's adjoint uses its stored
factors to compute V and B (S, R) with d loss / d K = -(V B^T + B V^T) / 2; usually B is A itself. Hence, with
g = d loss / d scores,

    dZ = g W      dW = g^T Z      G = X dW^T      dX = A dW - B V^T X - V B^T X
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewshot.heads.thin_products import gram, inner_products

Adjoint = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""Gradient of the coefficients (T, S, M) -> V (T, S, R), or V and B if B differs from the coefficients."""

Fit = Callable[[Tensor], tuple[Tensor, Adjoint]]
"""Kernel (T, S, S) -> coefficients (T, S, M) and their adjoint."""


def kernel_scores(support: Tensor, query: Tensor, fit: Fit, *, bias: bool = False) -> Tensor:
    """Return the scores (T, Q, M) that the classifier found by `fit` gives the query images.

    Args:
        support: X, (T, S, d).
        query: Z, (T, Q, d).
        fit: called with K without a bias; may add 1 to it.
        bias: add the sum of the coefficients over the support images, as the kernel K + 1 does.
    """
    scores: Tensor = _KernelScores.apply(support, query, fit, bias)
    return scores


class _KernelScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, support: Tensor, query: Tensor, fit: Fit, bias: bool) -> Tensor:
        coefficients, ctx.adjoint = fit(gram(support))
        ctx.bias = bias
        coefficients = coefficients.to(support.dtype)
        weights = torch.bmm(coefficients.mT, support)
        ctx.save_for_backward(support, query, coefficients, weights)
        scores = inner_products(query, weights)
        return scores.add_(coefficients.sum(1).unsqueeze(1)) if bias else scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this head has no second derivative; call backward() or autograd.grad() with create_graph=False"
            )
        support, query, coefficients, weights = ctx.saved_tensors
        weights_gradient = torch.bmm(gradient.mT, query)
        coefficients_gradient = inner_products(weights_gradient, support).mT
        if ctx.bias:
            coefficients_gradient += gradient.sum(1).unsqueeze(1)
        adjoint = ctx.adjoint(coefficients_gradient)
        if isinstance(adjoint, tuple):
            v, b = (factor.to(support.dtype) for factor in adjoint)
            left = torch.cat([coefficients, -b, -v], 2)
            right = torch.cat([weights_gradient, torch.bmm(v.mT, support), torch.bmm(b.mT, support)], 1)
        else:
            v = adjoint.to(support.dtype)
            left = torch.cat([coefficients, -v], 2)
            right = torch.cat([weights_gradient.sub_(torch.bmm(v.mT, support)), weights], 1)
        return torch.bmm(left, right), torch.bmm(gradient, weights), None, None
