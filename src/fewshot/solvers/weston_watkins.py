"""The dual of the Weston-Watkins support vector machine: pivoting whose equations are solved class by class.

For T problems with S samples, M classes, one-hot labels Y (S, M) and a kernel K (S, S), with one variable a_im for each
sample and each class that is not its own:

    minimise over a   1/2 a^T H a - 2 sum a      subject to 0 <= a <= C

With s_i = sum_k a_ik and o = Y s (the sums, each in the column of its own class), H applied to a gives

    (K (a - coupling o))_im + t_i,      t_i = (K (o - coupling a))_iy,  y the class of sample i

H has S (M - 1) rows: 20,160 at 64 ways and 5 shots. But if s and t were known, the equations of the free variables
would separate into one (S, S) block per class; so the block of each class's free variables is inverted, and the two
definitions of s and t give 2 S equations for s and t: at most M S^3 operations instead of (M S)^3.

Shapes: T problems, M classes, S samples, F free variables of a class, n samples of a class (both of the largest one).
"""

import torch
from torch import Tensor

from .box import Solve, solve_boxes
from .solution import Solution, by_class

CHUNK_BYTES = 2**29
"""Memory for the blocks of the problems solved at once."""


def weston_watkins(kernel: Tensor, labels: Tensor, n_way: int, bound: float, coupling: float) -> Solution:
    """Solve T duals to rounding error, starting with every variable at its upper bound.

    Args:
        kernel: K, (T, S, S) float64, symmetric and positive definite.
        labels: class of each sample, int64 0 .. n_way - 1, (T, S); every class must occur.
        n_way: M, number of classes.
        bound: C, largest value of a variable.
        coupling: weight of the coupling terms: 1 in the derivation.

    Returns:
        The solution with alpha = a, (T, S, M) float64, zero for a sample's own class; residual and convergence as in
        `box_program`, gradients with respect to H by its adjoint.

    >>> features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    >>> solution = weston_watkins((features @ features.T)[None] + 1, torch.tensor([[0, 0, 1, 1]]), 2, 0.5, 1.0)
    >>> solution.alpha[0, :, 1]
    tensor([0.0000, 0.5000, 0.0000, 0.0000], dtype=torch.float64)
    """
    members = torch.nn.functional.one_hot(labels, n_way).mT.double()
    size = max(1, CHUNK_BYTES // (4 * 8 * n_way * kernel.shape[1] ** 2))
    chunks = zip(kernel.split(size), members.split(size), strict=True)
    parts = [_solve(matrix, of_class, bound, coupling) for matrix, of_class in chunks]
    adjoints = [part.adjoint for part in parts]

    def adjoint(gradient: Tensor) -> Tensor:
        return torch.cat([one(part) for one, part in zip(adjoints, gradient.split(size), strict=True)])

    return Solution(
        torch.cat([part.alpha for part in parts]),
        torch.cat([part.kkt_residual for part in parts]),
        torch.cat([part.iterations for part in parts]),
        torch.cat([part.converged for part in parts]),
        adjoint,
    )


def _solve(kernel: Tensor, members: Tensor, bound: float, coupling: float) -> Solution:
    """Solve problems given by kernels (T, S, S) and members (T, M, S)."""
    upper = (bound * (1 - members)).flatten(1)
    found = solve_boxes(_ByClass(kernel, members, coupling), torch.full_like(upper, 2.0), upper)

    def adjoint(gradient: Tensor) -> Tensor:
        return found.adjoint(gradient.flatten(1)).view_as(members)

    alpha = found.alpha.view_as(members).mT
    return Solution(alpha, found.kkt_residual, found.iterations, found.converged, by_class(adjoint))


class _ByClass:
    """The matrices H as a `box.Quadratic`; variables are ordered by class, m * S + i.

    Args:
        kernel: K, (T, S, S) float64.
        members: one-hot labels, (T, M, S) float64.
        coupling: weight of the coupling terms.
    """

    def __init__(self, kernel: Tensor, members: Tensor, coupling: float) -> None:
        self.kernel, self.members, self.coupling = kernel, members, coupling
        self.largest = 2 * kernel.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
        self.own = _Places(members)
        self.own_blocks = kernel * (members.mT @ members)

    def product(self, x: Tensor) -> Tensor:
        """Return H x of x (T, M S)."""
        a = x.view_as(self.members)
        own = self.members * a.sum(1, keepdim=True)
        of_a, of_own = a @ self.kernel, own @ self.kernel
        total = (self.members * (of_own - self.coupling * of_a)).sum(1, keepdim=True)
        return (of_a - self.coupling * of_own + total).flatten(1)

    def factor(self, free: Tensor) -> Solve:
        """Return a function that solves the equations of the free variables, with one step of refinement."""
        if not bool(free.any()):
            return torch.zeros_like
        places = _Places(free.view_as(self.members).to(self.kernel.dtype))
        inverses = self._inverses(places)
        factors, pivots, _ = torch.linalg.lu_factor_ex(self._closing_matrix(places, inverses))

        def once(right: Tensor) -> Tensor:
            right = right.view_as(self.members)
            alone = places.spread(inverses @ places.pick(right))
            closing = torch.cat([alone.sum(1), -self.coupling * (self.members * (alone @ self.kernel)).sum(1)], 1)
            s, t = torch.linalg.lu_solve(factors, pivots, closing.unsqueeze(2)).squeeze(2).chunk(2, 1)
            shared = self.coupling * ((self.members * s.unsqueeze(1)) @ self.kernel) - t.unsqueeze(1)
            return (alone + places.spread(inverses @ places.pick(shared))).flatten(1)

        def solve(right: Tensor) -> Tensor:
            first = once(right)
            return first + once((right - self.product(first)) * free)

        return solve

    def _inverses(self, places: "_Places") -> Tensor:
        """Return the inverse of each class's block of the kernel, (T, M, F, F)."""
        blocks = places.block(self.kernel, places)
        blocks.diagonal(dim1=2, dim2=3).add_(1 - places.valid)
        outer = places.valid.unsqueeze(3) * places.valid.unsqueeze(2)
        return torch.linalg.inv_ex(blocks).inverse.mul_(outer)

    def _closing_matrix(self, places: "_Places", inverses: Tensor) -> Tensor:
        """Return the matrix of the equations for s and t, (T, 2 S, 2 S)."""
        columns = places.block(self.kernel, self.own)  # (T, M, F, n)
        by_own = inverses @ columns
        effect = places.place(by_own, self.own)
        back = self.own.place(columns.mT @ by_own, self.own)
        one = torch.eye(self.kernel.shape[1], dtype=self.kernel.dtype, device=self.kernel.device)
        of_s = torch.cat([one - self.coupling * effect, self.coupling**2 * back - self.own_blocks], 1)
        of_t = torch.cat([places.place(inverses, places), one - self.coupling * effect.mT], 1)
        return torch.cat([of_s, of_t], 2)


class _Places:
    """Some samples of each class as indices, padded to the largest number F of any class.

    Args:
        mask: 1 for the chosen samples, else 0, (T, M, S) float64.

    Attributes:
        index: the samples, (T, M, F).
        valid: 1, or 0 for padding, (T, M, F).
    """

    def __init__(self, mask: Tensor) -> None:
        self.n_samples = mask.shape[2]
        self.index = mask.argsort(dim=2, descending=True, stable=True)[:, :, : int(mask.sum(2).max())]
        self.valid = mask.gather(2, self.index)

    def pick(self, values: Tensor) -> Tensor:
        """Return the entries of values (T, M, S) as columns, (T, M, F, 1)."""
        return (values.gather(2, self.index) * self.valid).unsqueeze(3)

    def spread(self, columns: Tensor) -> Tensor:
        """Return columns (T, M, F, 1), zero for padding, at their samples, (T, M, S); zero elsewhere."""
        whole = columns.new_zeros(*self.index.shape[:2], self.n_samples)
        return whole.scatter_add_(2, self.index, columns.squeeze(3))

    def block(self, kernel: Tensor, others: "_Places") -> Tensor:
        """Return the kernel (T, S, S) of these samples with others, (T, M, F, F'); zero for padding."""
        entries = kernel.flatten(1).gather(1, self._entries(others).flatten(1)).view(*self.index.shape, -1)
        return entries * self.valid.unsqueeze(3) * others.valid.unsqueeze(2)

    def place(self, blocks: Tensor, others: "_Places") -> Tensor:
        """Return the sum over classes of blocks (T, M, F, F'), zero for padding, as (T, S, S)."""
        whole = blocks.new_zeros(len(blocks), self.n_samples**2)
        whole.scatter_add_(1, self._entries(others).flatten(1), blocks.flatten(1))
        return whole.view(-1, self.n_samples, self.n_samples)

    def _entries(self, others: "_Places") -> Tensor:
        return self.index.unsqueeze(3) * self.n_samples + others.index.unsqueeze(2)
