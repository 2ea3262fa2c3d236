"""CxGrad, contextual gradient scaling (Lee et al., WACV 2022): a norm for each convolution before each inner step.

Before each inner step, every convolution weight W_l becomes gamma_l W_l / ||W_l||. Batch norm follows, so the loss
does not change, but its gradient is scaled by ||W_l|| / gamma_l. A generator computes the gammas from a context vector,
which starts at zero for each task and is updated by gradient descent on the support loss. The head is never rescaled.

Because the loss does not change, the context's own gradient vanishes but for the epsilon of batch norm: gamma is nearly
the same for all tasks (docs/departures.md, C27). `contextual: false` is the control: gamma_l = Softplus(c_l) with
learned constants c_l, starting at 0, and no context.

Details the paper leaves open, from the released code:
  * The context first takes one step at the initial weights, without a graph, then one step with each inner step.
  * The norm is that of the whole tensor; rescaling is repeated before every inner step, but not after the last.
  * The generator is Linear, ReLU, Linear, Softplus, with PyTorch's default initialisation.
  * The parts of MAML++ can be enabled; the released configurations leave them off.
"""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.conv4_maml import Conv4MAML
from fewshot.backbones.settings import CONV4_MAML_STAGES
from fewshot.errors import ParamsError
from fewshot.learners.base import LearnerContext
from fewshot.learners.context import DEFAULT_CONTEXT, check_no_bias
from fewshot.learners.inner_loop import FastWeights, InnerStep, Task
from fewshot.learners.mamlpp import MAMLPlusPlus
from fewshot.learners.settings import CxGradSettings

CONTEXT = "context"


class CxGrad(MAMLPlusPlus):
    """CxGrad; its fast weights include the context vector, if any. Same arguments as `MAML`; requires Conv4MAML."""

    settings_type = CxGradSettings
    settings: CxGradSettings

    def __init__(self, backbone: nn.Module, context: LearnerContext = DEFAULT_CONTEXT, **settings: Any) -> None:
        super().__init__(backbone, context, **settings)
        self.convolutions = [name for name in self.adaptable if name.endswith("convolution.weight")]
        if self.settings.contextual:
            size = self.settings.context_size
            self.generator = nn.Sequential(
                nn.Linear(size, size), nn.ReLU(), nn.Linear(size, CONV4_MAML_STAGES), nn.Softplus()
            ).to(self.network.head.weight)  # dtype and device of the backbone
        else:
            self.constants = nn.Parameter(self.network.head.weight.new_zeros(CONV4_MAML_STAGES))

    def check_backbone(self, backbone: nn.Module) -> None:
        """Raise `ParamsError` unless the backbone is a Conv4MAML without bias that supports the settings."""
        if not isinstance(backbone, Conv4MAML):
            raise ParamsError(
                f"CxGrad rescales convolutions followed by batch norm and needs the backbone Conv4MAML, not "
                f"{type(backbone).__name__}"
            )
        check_no_bias("CxGrad", backbone.bias)
        super().check_backbone(backbone)

    def initial_weights(self, task: Task) -> FastWeights:
        """Return the learned weights and, if `contextual`, a context of zeros."""
        fast = super().initial_weights(task)
        if not any(name in fast for name in self.convolutions):
            raise ParamsError("CxGrad has no convolution to adapt: all are frozen; set requires_grad for one or more")
        if not self.settings.contextual:
            return fast
        return fast | {CONTEXT: task.support_images.new_zeros(self.settings.context_size)}

    def moved_at_start(self, fast: FastWeights) -> list[str]:
        """Return the context, if any: it takes one step on the support loss at the initial weights."""
        return [CONTEXT] if self.settings.contextual else []

    def move_start(self, fast: FastWeights, gradients: FastWeights) -> FastWeights:
        """Return the initial weights and the context after its first step, which has no graph."""
        return fast | {CONTEXT: self._move_context(fast[CONTEXT].detach(), gradients[CONTEXT])}

    def gammas(self, fast: FastWeights) -> Tensor:
        """Return the norm to which each convolution is scaled, (4,)."""
        return self.generator(fast[CONTEXT]) if self.settings.contextual else F.softplus(self.constants)

    def rescale(self, fast: FastWeights) -> FastWeights:
        """Return the fast weights with each convolution scaled to norm gamma."""
        gammas = self.gammas(fast)
        scaled = {
            name: gamma / (fast[name].norm() + self.settings.norm_epsilon) * fast[name]
            for name, gamma in zip(self.convolutions, gammas, strict=True)
            if name in fast
        }
        return fast | scaled

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return the weights and, if `contextual`, the context after one step."""
        weights = super().update({name: fast[name] for name in fast if name != CONTEXT}, gradients, inner_step)
        if not self.settings.contextual:
            return weights
        return weights | {CONTEXT: self._move_context(fast[CONTEXT], gradients[CONTEXT])}

    def diagnose_step(self, step: InnerStep) -> dict[str, np.ndarray]:
        """Return the gamma of each convolution, (4,)."""
        return {"gamma": self.gammas(step.used).cpu().numpy()}

    def _move_context(self, context: Tensor, gradient: Tensor) -> Tensor:
        return context - self.settings.context_learning_rate * gradient
