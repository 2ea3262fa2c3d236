"""Heads whose classifier comes from an iterative solver: how unconverged problems are handled."""

from typing import Any

import numpy as np
from torch import Tensor

from fewshot.checks import holds
from fewshot.errors import NumericalError
from fewshot.heads import CertifiedSettings
from fewshot.heads.base import Head


class CertifiedHead(Head):
    """Head that records how exact the classifier of each episode is.

    In training, an episode that did not converge raises an error unless allowed; in evaluation, the certificates are
    kept until `take_certificates` returns them.
    """

    settings: CertifiedSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._certificates: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def allow_unconverged(self) -> bool:
        """Whether training continues if the solver did not converge."""
        return self.settings.allow_unconverged

    def certify(self, kkt_residual: Tensor, converged: Tensor) -> None:
        """Record the residuals (T,) and convergence flags (T,) of a batch of episodes.

        Raises:
            NumericalError: in training, if an episode did not converge and `allow_unconverged` is false.
        """
        if not self.training:
            self._certificates.append((kkt_residual.cpu().numpy(), converged.cpu().numpy()))
        elif not (self.allow_unconverged or holds(converged)):
            raise NumericalError(
                f"the solver did not converge for {int((~converged).sum())} of {len(converged)} episodes (largest "
                f"relative KKT residual {float(kkt_residual.max()):.2g}): embeddings are very large or not finite; "
                "lower the learning rate, or set allow_unconverged: true to train on the best point found"
            )

    def take_certificates(self) -> dict[str, np.ndarray]:
        """Return `kkt_residual` and `converged` of the episodes evaluated since the last call, in order."""
        if not self._certificates:
            return {}
        residuals, flags = zip(*self._certificates, strict=True)
        self._certificates = []
        return {"kkt_residual": np.concatenate(residuals), "converged": np.concatenate(flags)}
