"""The data of T Crammer-Singer duals of equal size, and its validation.

The public functions take and return dual variables as alpha (T, S, M): T problems, S samples, M classes. Internally,
arrays are stored class by class, (T, M, S), because each class has its own linear system.
"""

from dataclasses import dataclass, replace
from math import inf
from numbers import Real

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """T problems, or a single one before `batched`.

    Attributes:
        kernel: K, (T, S, S) or (S, S), float32 or float64, positive semi-definite; only the symmetric part is used.
        labels: class of each sample, integers 0 .. n_way - 1, (T, S) or (S,); every class must occur.
        n_way: M, number of classes, 2 or more.
        bound: C, greater than 0.
        diagonal_shift: added to the diagonal of K, 0 or more.
    """

    kernel: Tensor
    labels: Tensor
    n_way: int
    bound: float = 0.1
    diagonal_shift: float = 1.0

    def __getitem__(self, problem: int) -> "Problem":
        """Return one problem as a batch of one."""
        chosen = slice(problem, problem + 1)
        return replace(self, kernel=self.kernel[chosen], labels=self.labels[chosen])

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, M, S."""
        return self.kernel.shape[0], self.n_way, self.kernel.shape[1]

    def matrix(self) -> Tensor:
        """Return the symmetric part of the kernel plus diagonal_shift I, (T, S, S) float64."""
        matrix = self.kernel.detach().double()
        matrix = 0.5 * (matrix + matrix.mT)
        matrix.diagonal(dim1=1, dim2=2).add_(self.diagonal_shift)
        return matrix

    def targets(self) -> Tensor:
        """Return the one-hot labels Y, (T, M, S) float64."""
        targets = torch.zeros(self.shape, dtype=torch.float64, device=self.labels.device)
        return targets.scatter_(1, self.labels.unsqueeze(1), 1.0)

    def batched(self) -> "Problem":
        """Return the problems with a problem axis and int64 labels, as every method except `check` requires."""
        single = self.kernel.dim() == 2
        kernel, labels = (value.unsqueeze(0) if single else value for value in (self.kernel, self.labels))
        return replace(self, kernel=kernel, labels=labels.long())

    def check(self) -> None:
        """Raise an error that names the first argument that does not fit, what was found and what is allowed.

        Raises:
            TypeError: if the kernel or the labels are no tensor, or another argument is no number.
            ValueError: if an argument has a wrong shape, dtype or value.
        """
        check_tensors(kernel=self.kernel, labels=self.labels)
        kernel = self.kernel
        if not is_square(kernel):
            raise ValueError(
                f"kernel has shape {tuple(kernel.shape)} and dtype {kernel.dtype}; allowed: float32 or float64 of "
                "shape (problems, samples, samples) or (samples, samples)"
            )
        if not hasattr(self.n_way, "__index__"):
            raise TypeError(f"n_way is {self.n_way!r}; allowed: an integer, 2 or more")
        if self.n_way < 2:
            raise ValueError(f"n_way is {self.n_way}; allowed: 2 or more")
        for name in ("bound", "diagonal_shift"):
            if not isinstance(getattr(self, name), Real):
                raise TypeError(f"{name} is {getattr(self, name)!r}; allowed: a number")
        if not self.bound > 0:
            raise ValueError(f"bound is {self.bound}; allowed: greater than 0")
        if not 0 <= self.diagonal_shift < inf:
            raise ValueError(f"diagonal_shift is {self.diagonal_shift}; allowed: 0 or more, finite")
        self._check_labels()

    def _check_labels(self) -> None:
        labels, expected = self.labels, self.kernel.shape[:-1]
        if labels.shape != expected or labels.dtype not in INTEGERS:
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; allowed: integers of shape "
                f"{tuple(expected)}"
            )
        if labels.numel() == 0:
            raise ValueError(
                f"labels is empty, shape {tuple(labels.shape)}; allowed: at least one sample of each class"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= self.n_way:
            raise ValueError(f"labels holds {int(labels.min())} .. {int(labels.max())}; allowed: 0 .. {self.n_way - 1}")
        missing = (self.batched().targets().sum(2) == 0).nonzero()
        if len(missing):
            problem, label = missing[0].tolist()
            raise ValueError(
                f"labels of problem {problem} lack class {label}; allowed: at least one sample of each class"
            )


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_tensors(**arguments: object) -> None:
    """Raise `TypeError` that names the first argument that is not a tensor."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; allowed: a torch.Tensor")


def is_float(tensor: Tensor) -> bool:
    """Return whether the solvers accept tensors of this dtype."""
    return tensor.dtype in (torch.float32, torch.float64)


def is_square(tensor: Tensor) -> bool:
    """Return whether a tensor is a square matrix or a batch of them, in a dtype that the solvers accept."""
    return tensor.dim() in (2, 3) and tensor.shape[-1] == tensor.shape[-2] and is_float(tensor)
