"""Block principal pivoting for the Crammer-Singer dual, compiled for the CPU, one problem at a time.

`multiclass_svm` describes the method. Each class keeps the inverse of the matrix on its free samples only, packed
without gaps, and recomputes it only when its free set has changed. All computation is in float64.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from .problem import Problem

# The pivot tests must detect NaN, so the flags "nnan" and "ninf" are omitted.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
_compile = numba.njit(cache=True, **_OPTIONS)
# Inlined, because otherwise a function is compiled twice, alone and within its caller, with sums in different orders:
# the process that fills the cache would use one, later processes the other, and results would differ in the last bits.
_inline = numba.njit(forceinline=True, **_OPTIONS)

PATIENCE = 5
"""Rounds without progress before switching to one flipped entry per round (Murty's rule, which terminates)."""


class Pivots(NamedTuple):
    """State of T problems after pivoting; every array has T as its first axis.

    Attributes:
        alpha: (T, M, S), dtype of the kernel.
        free: (T, M, S) uint8, 1 where an entry is strictly below its bound.
        rounds: (T,) int64, linear solves done.
        solved: (T,) bool, no entry infeasible.
        residual: (T,) relative KKT residual, defined in `certificate.kkt_residual`.
        inverses: (T, M, S * S) packed inverses on the free samples.
        rows: (T, M, S) int32, the free samples of each class, in order.
        counts: (T, M) int32, number of free samples of each class.
        schur: (T, S, S) upper Cholesky factor of the sum of the inverses.
    """

    alpha: np.ndarray
    free: np.ndarray
    rounds: np.ndarray
    solved: np.ndarray
    residual: np.ndarray
    inverses: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    schur: np.ndarray

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Return V (T, M, S) for the gradient (T, M, S) of alpha; see `saddle.SaddleFactors.adjoint`."""
        adjoint = torch.empty(gradient.shape, dtype=gradient.dtype)
        given = gradient.detach().contiguous().numpy()
        _adjoints(given, self.inverses, self.rows, self.counts, self.schur, adjoint.numpy())
        return adjoint


def pivot(problem: Problem, max_rounds: int, free: Tensor | None = None) -> Pivots:
    """Pivot T problems from the given free set, or with all entries free (the ridge solution).

    Args:
        problem: T problems on the CPU.
        max_rounds: linear solves before giving up on a problem.
        free: initial free set, (T, M, S) bool.
    """
    shape = n_problems, n_way, n_samples = problem.shape
    dtype = np.float32 if problem.kernel.dtype == torch.float32 else np.float64
    pivots = Pivots(
        alpha=np.empty(shape, dtype),
        free=np.ones(shape, np.uint8) if free is None else free.numpy().astype(np.uint8),
        rounds=np.empty(n_problems, np.int64),
        solved=np.empty(n_problems, np.bool_),
        residual=np.empty(n_problems),
        inverses=np.empty((n_problems, n_way, n_samples * n_samples)),
        rows=np.empty(shape, np.int32),
        counts=np.empty(shape[:2], np.int32),
        schur=np.empty((n_problems, n_samples, n_samples)),
    )
    kernel, labels = problem.kernel.detach().contiguous().numpy(), problem.labels.contiguous().numpy()
    _pivot_all(kernel, labels, problem.bound, problem.diagonal_shift, max_rounds, free is None, *pivots)
    return pivots


@_compile
def _pivot_all(
    kernel: Any, labels: Any, bound: float, shift: float, max_rounds: int, all_free: bool,
    alpha: Any, free: Any, rounds: Any, solved: Any, residual: Any, inverses: Any, rows: Any, counts: Any, schur: Any,
) -> None:  # fmt: skip
    """Fill the output arrays problem by problem."""
    n_problems, n_way, n_samples = alpha.shape
    matrix, solution = np.empty((n_samples, n_samples)), np.empty((n_way, n_samples))
    gradient, right = np.empty((n_way, n_samples)), np.empty((n_way, n_samples))
    nu, scratch = np.empty(n_samples), np.empty((2, n_samples))
    infeasible, changed = np.empty((n_way, n_samples), np.uint8), np.empty(n_way, np.uint8)
    for t in range(n_problems):
        for i in range(n_samples):
            for j in range(n_samples):
                matrix[i, j] = 0.5 * (np.float64(kernel[t, i, j]) + np.float64(kernel[t, j, i]))
            matrix[i, i] += shift
        rounds[t], solved[t] = _pivot_one(
            matrix, labels[t], bound, max_rounds, all_free, solution, free[t], inverses[t], rows[t], counts[t],
            schur[t], gradient, right, nu, scratch, infeasible, changed,
        )  # fmt: skip
        residual[t] = _residual(labels[t], bound, solution, gradient)
        for m in range(n_way):
            for i in range(n_samples):
                alpha[t, m, i] = solution[m, i]


@_inline
def _pivot_one(
    matrix: Any, labels: Any, bound: float, max_rounds: int, all_free: bool, alpha: Any, free: Any,
    inverses: Any, rows: Any, counts: Any, schur: Any, gradient: Any, right: Any, nu: Any, scratch: Any,
    infeasible: Any, changed: Any,
) -> tuple[int, bool]:  # fmt: skip
    """Solve one problem; return the number of linear solves and whether no entry is infeasible."""
    n_way, n_samples = alpha.shape
    fewest, patience = n_way * n_samples + 1, PATIENCE
    changed[:] = 1
    for done in range(1, max_rounds + 1):
        ridge = all_free and done == 1
        if ridge:
            definite = _solve_ridge(matrix, labels, alpha, nu, schur, scratch)
        else:
            definite = _invert_changed(matrix, free, changed, inverses, rows, counts, scratch)
            definite = definite and _factorise_sum(inverses, rows, counts, schur)
        if not definite:
            alpha[:] = np.nan
            gradient[:] = np.nan
            return done, False
        if not ridge:
            _solve_free(matrix, labels, bound, free, alpha, inverses, rows, counts, schur, right, nu, scratch)
        _multiply(matrix, alpha, gradient)
        count, last_class, last_sample = _find_infeasible(labels, bound, free, alpha, gradient, nu, infeasible)
        patience = PATIENCE if count < fewest else patience - 1
        fewest = min(fewest, count)
        changed[:] = 0
        if patience >= 0:
            for m in range(n_way):
                for i in range(n_samples):
                    if infeasible[m, i]:
                        free[m, i] ^= 1
                        changed[m] = 1
        else:
            free[last_class, last_sample] ^= 1
            changed[last_class] = 1
        if ridge:
            _keep_full_inverse(schur, changed, inverses, rows, counts)
        if count == 0:
            if ridge:
                _factorise_sum(inverses, rows, counts, schur)
            _refine(matrix, labels, alpha, inverses, rows, counts, schur, gradient, right, nu, scratch)
            return done, True
    return max_rounds, False


@_inline
def _solve_ridge(matrix: Any, labels: Any, alpha: Any, nu: Any, inverse: Any, scratch: Any) -> bool:
    """Set alpha and nu to the solution with all entries free, and `inverse` to the matrix's; False if singular."""
    n_way, n_samples = alpha.shape
    inverse[:] = matrix
    if not _invert(inverse, scratch):
        return False
    for i in range(n_samples):
        total = 0.0
        for k in range(n_samples):
            total += inverse[i, k]
        for m in range(n_way):
            alpha[m, i] = -total / n_way
        nu[i] = 1.0 / n_way
    for i in range(n_samples):
        row, own = inverse[i], alpha[labels[i]]
        for k in range(n_samples):
            own[k] += row[k]
    return True


@_inline
def _keep_full_inverse(inverse: Any, changed: Any, inverses: Any, rows: Any, counts: Any) -> None:
    """Store the inverse of the whole matrix for the classes whose samples all stay free."""
    n_way, n_samples = rows.shape
    for m in range(n_way):
        if not changed[m]:
            counts[m] = n_samples
            inverses[m] = inverse.reshape(n_samples * n_samples)
            for i in range(n_samples):
                rows[m, i] = i


@_inline
def _invert_changed(matrix: Any, free: Any, changed: Any, inverses: Any, rows: Any, counts: Any, scratch: Any) -> bool:
    """Invert the matrix on the free samples of each changed class; False if singular."""
    n_way, n_samples = free.shape
    for m in range(n_way):
        if changed[m]:
            count = 0
            for i in range(n_samples):
                if free[m, i]:
                    rows[m, count] = i
                    count += 1
            counts[m] = count
            inverse = inverses[m, : count * count].reshape(count, count)
            for a in range(count):
                row = matrix[rows[m, a]]
                for b in range(count):
                    inverse[a, b] = row[rows[m, b]]
            if not _invert(inverse, scratch):
                return False
    return True


@_inline
def _factorise_sum(inverses: Any, rows: Any, counts: Any, schur: Any) -> bool:
    """Set `schur` to the upper Cholesky factor of the sum of the inverses; False if that is singular."""
    n_way = len(counts)
    schur[:] = 0.0
    for m in range(n_way):
        count = counts[m]
        inverse = inverses[m, : count * count].reshape(count, count)
        for a in range(count):
            row = schur[rows[m, a]]
            for b in range(a, count):
                row[rows[m, b]] += inverse[a, b]
    return _cholesky(schur)


@_inline
def _solve_free(
    matrix: Any, labels: Any, bound: float, free: Any, alpha: Any,
    inverses: Any, rows: Any, counts: Any, schur: Any, right: Any, nu: Any, scratch: Any,
) -> None:  # fmt: skip
    """Set alpha and nu to the solution with all entries outside the free set at their bound."""
    n_samples = alpha.shape[1]
    right[:] = 0.0
    alpha[:] = 0.0
    nu[:] = 0.0
    for i in range(n_samples):
        m = labels[i]
        right[m, i] += 1.0
        if not free[m, i]:
            alpha[m, i] = bound
            nu[i] = bound
            for k in range(n_samples):
                right[m, k] -= bound * matrix[i, k]
    _solve_saddle(right, inverses, rows, counts, schur, alpha, nu, scratch)


@_inline
def _solve_saddle(
    right: Any, inverses: Any, rows: Any, counts: Any, schur: Any, solution: Any, nu: Any, scratch: Any
) -> None:
    """Set the free entries of `solution` to Z_m (right_m - nu); on entry nu holds minus the required row sums."""
    n_way = right.shape[0]
    for m in range(n_way):
        count = counts[m]
        inverse = inverses[m, : count * count].reshape(count, count)
        for a in range(count):
            scratch[0, a] = right[m, rows[m, a]]
        for a in range(count):
            total = 0.0
            for b in range(count):
                total += inverse[a, b] * scratch[0, b]
            solution[m, rows[m, a]] = total
            nu[rows[m, a]] += total
    _solve_cholesky(schur, nu)
    for m in range(n_way):
        count = counts[m]
        inverse = inverses[m, : count * count].reshape(count, count)
        for a in range(count):
            scratch[0, a] = nu[rows[m, a]]
        for a in range(count):
            total = 0.0
            for b in range(count):
                total += inverse[a, b] * scratch[0, b]
            solution[m, rows[m, a]] -= total


@_inline
def _refine(
    matrix: Any, labels: Any, alpha: Any, inverses: Any, rows: Any, counts: Any, schur: Any,
    product: Any, right: Any, nu: Any, scratch: Any,
) -> None:  # fmt: skip
    """Refine alpha once with the residual of its linear equations, and recompute product = matrix alpha."""
    n_way, n_samples = alpha.shape
    change, nu_change = product, np.zeros(n_samples)
    for m in range(n_way):
        for i in range(n_samples):
            right[m, i] = (1.0 if labels[i] == m else 0.0) - product[m, i] - nu[i]
            nu_change[i] += alpha[m, i]
            change[m, i] = 0.0
    _solve_saddle(right, inverses, rows, counts, schur, change, nu_change, scratch)
    for m in range(n_way):
        for i in range(n_samples):
            alpha[m, i] += change[m, i]
    _multiply(matrix, alpha, product)


@_inline
def _multiply(matrix: Any, alpha: Any, product: Any) -> None:
    """Set product_m = matrix alpha_m, skipping the many zeros of alpha."""
    n_way, n_samples = alpha.shape
    for m in range(n_way):
        row = product[m]
        row[:] = 0.0
        for k in range(n_samples):
            factor = alpha[m, k]
            if factor != 0.0:
                column = matrix[k]
                for i in range(n_samples):
                    row[i] += factor * column[i]


@_inline
def _find_infeasible(
    labels: Any, bound: float, free: Any, alpha: Any, product: Any, nu: Any, infeasible: Any
) -> tuple[int, int, int]:
    """Mark free entries above their bound and bound ones with negative multiplier; return their count and the last."""
    n_way, n_samples = alpha.shape
    largest, scale = 0.0, 1.0
    for m in range(n_way):
        for i in range(n_samples):
            largest = max(largest, abs(alpha[m, i]))
            scale = max(scale, abs(product[m, i]))
    count, last_class, last_sample = 0, 0, 0
    for m in range(n_way):
        for i in range(n_samples):
            own = labels[i] == m
            if free[m, i]:
                wrong = alpha[m, i] - (bound if own else 0.0) > 1e-12 * largest
            else:
                wrong = (1.0 if own else 0.0) - product[m, i] - nu[i] < -1e-12 * scale
            infeasible[m, i] = wrong
            if wrong:
                count += 1
                last_class, last_sample = m, i
    return count, last_class, last_sample


@_inline
def _residual(labels: Any, bound: float, alpha: Any, product: Any) -> float:
    """Return the relative KKT residual of one problem; product = matrix alpha."""
    n_way, n_samples = alpha.shape
    largest, scale = 0.0, 1.0
    for m in range(n_way):
        for i in range(n_samples):
            if not (abs(alpha[m, i]) < np.inf and abs(product[m, i]) < np.inf):
                return np.inf
            largest = max(largest, abs(alpha[m, i]))
            scale = max(scale, abs(product[m, i]))
    worst = 0.0
    for i in range(n_samples):
        steepest, total = -np.inf, 0.0
        for m in range(n_way):
            steepest = max(steepest, product[m, i] - (1.0 if labels[i] == m else 0.0))
            total += alpha[m, i]
        worst = max(worst, abs(total) / largest)
        for m in range(n_way):
            own = labels[i] == m
            slack = ((bound if own else 0.0) - alpha[m, i]) / largest
            multiplier = (steepest - product[m, i] + (1.0 if own else 0.0)) / scale
            worst = max(worst, -slack, min(slack, multiplier))
    return worst


@_compile
def _adjoints(gradient: Any, inverses: Any, rows: Any, counts: Any, schur: Any, adjoint: Any) -> None:
    """Solve the saddle system for the gradient of alpha, one problem at a time."""
    n_problems, n_way, n_samples = gradient.shape
    right, solution = np.empty((n_way, n_samples)), np.empty((n_way, n_samples))
    nu, scratch = np.empty(n_samples), np.empty((2, n_samples))
    for t in range(n_problems):
        right[:] = gradient[t]
        solution[:] = 0.0
        nu[:] = 0.0
        _solve_saddle(right, inverses[t], rows[t], counts[t], schur[t], solution, nu, scratch)
        adjoint[t] = solution


@_inline
def _invert(matrix: Any, scratch: Any) -> bool:
    """Invert a symmetric positive definite matrix in place by Gauss-Jordan sweeps; False if a pivot is not positive.

    Taking two pivots per sweep halves the memory traffic; scratch is (2, n) or larger.
    """
    n = matrix.shape[0]
    for k in range(0, n - 1, 2):
        a, b, c = matrix[k, k], matrix[k, k + 1], matrix[k + 1, k + 1]
        determinant = a * c - b * b
        if not (a > 0 and determinant > 0):
            return False
        a, b, c = c / determinant, -b / determinant, a / determinant
        for j in range(n):
            upper, lower = matrix[k, j], matrix[k + 1, j]
            scratch[0, j] = a * upper + b * lower
            scratch[1, j] = b * upper + c * lower
        for i in range(n):
            if i != k and i != k + 1:
                first, second = matrix[i, k], matrix[i, k + 1]
                for j in range(n):
                    matrix[i, j] -= first * scratch[0, j] + second * scratch[1, j]
                matrix[i, k] = -(first * a + second * b)
                matrix[i, k + 1] = -(first * b + second * c)
        for j in range(n):
            matrix[k, j] = scratch[0, j]
            matrix[k + 1, j] = scratch[1, j]
        matrix[k, k], matrix[k, k + 1], matrix[k + 1, k], matrix[k + 1, k + 1] = a, b, b, c
    return n % 2 == 0 or _sweep(matrix, n - 1, scratch)


@_inline
def _sweep(matrix: Any, k: int, scratch: Any) -> bool:
    """Do the Gauss-Jordan sweep of one pivot in place; False if it is not positive."""
    n = matrix.shape[0]
    if not matrix[k, k] > 0:
        return False
    inverse = 1.0 / matrix[k, k]
    for j in range(n):
        scratch[0, j] = matrix[k, j] * inverse
    for i in range(n):
        if i != k:
            factor = matrix[i, k]
            for j in range(n):
                matrix[i, j] -= factor * scratch[0, j]
            matrix[i, k] = -factor * inverse
    for j in range(n):
        matrix[k, j] = scratch[0, j]
    matrix[k, k] = inverse
    return True


@_inline
def _cholesky(matrix: Any) -> bool:
    """Replace the upper triangle of a symmetric matrix by its factor R, matrix = R^T R; False if not definite."""
    n = matrix.shape[0]
    for k in range(n):
        pivot_row = matrix[k]
        if not pivot_row[k] > 0:
            return False
        scale = 1.0 / np.sqrt(pivot_row[k])
        for j in range(k, n):
            pivot_row[j] *= scale
        for i in range(k + 1, n):
            row = matrix[i]
            factor = pivot_row[i]
            for j in range(i, n):
                row[j] -= factor * pivot_row[j]
    return True


@_inline
def _solve_cholesky(factor: Any, right: Any) -> None:
    """Replace `right` by the solution of R^T R x = right."""
    n = factor.shape[0]
    for k in range(n):
        row = factor[k]
        right[k] /= row[k]
        value = right[k]
        for j in range(k + 1, n):
            right[j] -= value * row[j]
    for k in range(n - 1, -1, -1):
        row = factor[k]
        total = right[k]
        for j in range(k + 1, n):
            total -= row[j] * right[j]
        right[k] = total / row[k]
