"""The head interface: embeddings of an episode's support and query images -> scores of the query images.

Shapes: T episodes, M ways, S support images, Q query images in all, d features.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.checks import are_deferred, holds
from fewshot.errors import NumericalError
from fewshot.heads import HeadSettings
from fewshot.settings import parse_as

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Head(nn.Module):
    """Base class of heads: a subclass annotates `settings` with its settings type and defines `scores`.

    The settings are the keyword arguments of the subclass.

    Attributes:
        settings: the given values, completed with defaults; frozen.
        scale: learnable factor of the scores, scalar (gamma in Lee et al., CVPR 2019, Eq. 12); starts at
            `initial_scale`.
    """

    settings: HeadSettings
    settings_type: type[HeadSettings] = HeadSettings
    __call__: Callable[..., Tensor]  # `forward`; torch declares Any

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.settings_type = inspect.get_annotations(cls, eval_str=True).get("settings", cls.settings_type)
        cls.__signature__ = _own_first(cls.settings_type)  # type: ignore[attr-defined]

    def __init__(self, **settings: Any) -> None:
        """Take settings as keywords.

        Raises:
            ParamsError: a `ValueError`, if a setting is unknown or out of range.
        """
        super().__init__()
        self.settings = parse_as(self.settings_type, settings, where="")
        self.scale = nn.Parameter(torch.tensor(self.settings.initial_scale, dtype=torch.float32))

    def extra_repr(self) -> str:
        """Return the settings, for `repr`."""
        return ", ".join(
            f"{name}={getattr(self.settings, name)!r}" for name in inspect.signature(type(self)).parameters
        )

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, *, n_way: int | None = None) -> Tensor:
        """Score query images with a classifier fitted to the support images of the same episode.

        Args:
            support: embeddings, (T, S, d), rows in any order; (S, d) for a single episode.
            support_labels: class of each row, integers 0 .. M - 1, (T, S) or (S,); every class must occur.
            query: embeddings, (T, Q, d) or (Q, d).
            n_way: M, number of classes; one more than the largest label if None.

        Returns:
            Scores times `scale`, (T, Q, M) or (Q, M), in the inputs' dtype (float32 for half precision); larger is more
            likely.

        Raises:
            TypeError: if an argument is not a tensor, or `n_way` not an integer.
            ValueError: if shapes, dtypes or labels do not fit.
            NumericalError: if an embedding is not finite, or in training a solver did not converge.
        """
        check_shapes(support, support_labels, query)
        single = support.dim() == 2
        if single:
            support, support_labels, query = support.unsqueeze(0), support_labels.unsqueeze(0), query.unsqueeze(0)
        n_way = check_labels(support_labels, n_way)
        if support.dtype in (torch.float16, torch.bfloat16):
            support, query = support.float(), query.float()
        if torch.is_autocast_enabled(support.device.type):
            with torch.autocast(support.device.type, enabled=False):
                scores = self.scale * self._finite_scores(support, support_labels, query, n_way)
        else:
            scores = self.scale * self._finite_scores(support, support_labels, query, n_way)
        return scores.squeeze(0) if single else scores

    @property
    def recordable(self) -> bool:
        """Whether, while checks are deferred, the host reads no values from the device."""
        return True

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return the scores before `scale`, (T, Q, M); arguments as in `forward`, already validated."""
        raise NotImplementedError

    def take_certificates(self) -> dict[str, np.ndarray]:
        """Return the solver's report on each episode evaluated since the last call: name -> (episodes,)."""
        return {}

    def _finite_scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Return `scores`; if the fit fails or the scores are not finite, raise an error that names the cause.

        Embeddings are checked only then: non-finite ones always show in the kernel or the scores, which are smaller.
        """
        try:
            scores = self.scores(support, support_labels.long(), query, n_way)
            total = scores.detach().sum()  # a single operation; a finite sum implies finite terms
            if not (holds(total.isfinite()) or torch.isfinite(scores.detach()).all()):
                raise NumericalError(
                    "scores are not finite although the embeddings are: products overflow; scale the embeddings down"
                )
        except (NumericalError, FloatingPointError) as error:
            for name, value in (("support", support), ("query", query)):
                check_finite(name, value)
            if isinstance(error, NumericalError):
                raise
            raise NumericalError(str(error)) from error
        return scores


def _own_first(settings_type: type[HeadSettings]) -> inspect.Signature:
    """Return the signature of a settings type, inherited settings last."""
    signature = inspect.signature(settings_type)
    own = inspect.get_annotations(settings_type)
    parameters = sorted(signature.parameters.values(), key=lambda parameter: parameter.name not in own)
    return signature.replace(parameters=parameters)


def check_shapes(support: Tensor, support_labels: Tensor, query: Tensor) -> None:
    """Raise `TypeError` or `ValueError` unless the tensors are those of T episodes, or of a single one."""
    for name, value in (("support", support), ("support_labels", support_labels), ("query", query)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; allowed: a torch.Tensor")
    for name, value in (("support", support), ("query", query)):
        if value.dim() not in (2, 3) or value.dtype not in FLOATS or value.shape[-1] == 0:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}; allowed: floating point (16, 32 or "
                "64 bits) of shape (episodes, images, features) or (images, features), with 1 feature or more"
            )
    same_batch = query.dim() == support.dim() and query.shape[:-2] == support.shape[:-2]
    if not same_batch or query.shape[-1] != support.shape[-1] or query.dtype != support.dtype:
        raise ValueError(
            f"query has shape {tuple(query.shape)} and dtype {query.dtype}; allowed: the episodes, features and dtype "
            f"of support, which has shape {tuple(support.shape)} and dtype {support.dtype}"
        )
    if support_labels.shape != support.shape[:-1] or support_labels.is_floating_point():
        raise ValueError(
            f"support_labels has shape {tuple(support_labels.shape)} and dtype {support_labels.dtype}; allowed: "
            f"integers of shape {tuple(support.shape[:-1])}, one per support image"
        )


def check_labels(labels: Tensor, n_way: int | None) -> int:
    """Return n_way, by default one more than the largest of `labels` (T, S).

    Raises:
        TypeError: if n_way is not an integer.
        ValueError: unless n_way is 2 or more and each row holds every class 0 .. n_way - 1 and nothing else.
    """
    if labels.numel() == 0:
        raise ValueError(f"support_labels is empty, shape {tuple(labels.shape)}; allowed: at least one image per class")
    if n_way is not None and are_deferred():  # the caller vouches for its labels
        return n_way
    rows = labels.tolist()  # one copy from the device; a few microseconds for a meta-batch
    if n_way is None:
        n_way = 1 + max(map(max, rows))
    try:
        n_way = operator.index(n_way)
    except TypeError:
        raise TypeError(f"n_way is {n_way!r}; allowed: an integer, 2 or more") from None
    if n_way < 2:
        raise ValueError(f"n_way is {n_way}; allowed: 2 or more")
    classes = set(range(n_way))
    for episode, row in enumerate(rows):
        found = set(row)
        if found == classes:
            continue
        for label in found - classes:
            raise ValueError(f"support_labels holds {label}; allowed: 0 .. {n_way - 1} (n_way is {n_way})")
        raise ValueError(
            f"support_labels of episode {episode} has no image of class {min(classes - found)}; allowed: at least one "
            f"for each of the {n_way} classes"
        )
    return n_way


def check_finite(name: str, value: Tensor) -> None:
    """Raise a `NumericalError` naming the first non-finite entry of `value`, if there is one."""
    wrong = (~torch.isfinite(value)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise NumericalError(
            f"{name}{list(place)} is {value[place].item()}; allowed: finite numbers. {len(wrong)} such entries; the "
            "usual cause is too large a learning rate"
        )
