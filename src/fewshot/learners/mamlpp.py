"""MAML++ (Antoniou et al., ICLR 2019): MAML with optional additions that stabilise training.

  * Multi-step loss (`multi_step_loss_epochs`): in the first epochs, the query loss after every inner step contributes.
  * Learned rates (`per_layer_rates`): an inner learning rate for each adapted tensor and inner step.
  * Per-step batch norm (`per_step_batch_norm`): a batch-norm weight and bias for each inner step. The per-step
    running statistics of the released code never affect its outputs (it always uses batch statistics), so there are
    none here.
  * Derivative-order annealing (`first_order_epochs`): the first epochs are first order; implemented in `maml.MAML`.
  * Clamped outer gradient (`clamp_outer_gradient`): each entry of the network's gradient, summed over the meta-batch,
    is clamped before the optimiser's step; those of the learned rates are not.
The released code has one more rate per tensor than there are steps; it is never used and omitted here.
"""

from typing import Any, ClassVar

import torch
from torch import nn

from fewshot.learners.base import LearnerContext
from fewshot.learners.context import DEFAULT_CONTEXT
from fewshot.learners.inner_loop import FastWeights
from fewshot.learners.maml import MAML
from fewshot.learners.settings import MAMLPlusPlusSettings

SMALLEST_SHARE = 0.03


def multi_step_weights(epoch: int, n_steps: int, n_epochs: int) -> list[float]:
    """Return the weight of the query loss after each inner step, (K,), annealed from equal shares to the last step.

    Args:
        epoch: from 0.
        n_steps: K.
        n_epochs: epochs of the annealing; every weight but the last stays at or above 0.03 / K.
    """
    progress = epoch / n_epochs
    smallest = SMALLEST_SHARE / n_steps
    early = max((1 - progress) / n_steps, smallest)
    last = min((1 + progress * (n_steps - 1)) / n_steps, 1 - (n_steps - 1) * smallest)
    return [early] * (n_steps - 1) + [last]


class MAMLPlusPlus(MAML):
    """MAML++; same arguments as `MAML`. `per_step_batch_norm` requires the backbone Conv4MAML."""

    settings_type: ClassVar[type[MAMLPlusPlusSettings]] = MAMLPlusPlusSettings
    settings: MAMLPlusPlusSettings

    def __init__(self, backbone: nn.Module, context: LearnerContext = DEFAULT_CONTEXT, **settings: Any) -> None:
        super().__init__(backbone, context, **settings)
        n_rates = len(self.adaptable) if self.settings.per_layer_rates else 0
        self.rates = nn.ParameterList(
            torch.full((self.settings.inner_steps,), self.inner_learning_rate) for _ in range(n_rates)
        )

    @classmethod
    def batch_norm_steps(cls, settings: Any) -> int | None:
        """Return K if batch norm has weights for each inner step."""
        return settings.inner_steps if settings.per_step_batch_norm else None

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return fast weights - rate * gradients, with the rate of each tensor and step."""
        if not self.rates:
            return super().update(fast, gradients, inner_step)
        rates = dict(zip(self.adaptable, self.rates, strict=True))
        return {name: weight - rates[name][inner_step] * gradients[name] for name, weight in fast.items()}

    def query_importance(self, epoch: int) -> list[float]:
        """Return the weight of the query loss after each inner step, (K,)."""
        if epoch < self.settings.multi_step_loss_epochs:
            return multi_step_weights(epoch, self.settings.inner_steps, self.settings.multi_step_loss_epochs)
        return super().query_importance(epoch)

    def limit_gradients(self) -> None:
        """Clamp each entry of the network's gradients, if `clamp_outer_gradient` is set."""
        bound = self.settings.clamp_outer_gradient
        if bound is not None:
            nn.utils.clip_grad_value_(self.network.parameters(), bound)
