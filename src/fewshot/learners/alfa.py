"""ALFA (Baik et al., NeurIPS 2020): a network sets the inner learning rate and weight decay of each tensor and step.

At each inner step, a small network receives the means of the n adapted tensors and of their gradients; its outputs
alpha, beta multiply the learned rates a and decays b of tensor i and step j:

    W_i <- (1 - beta_i b_i[j]) W_i - alpha_i a_i[j] g_i

`attenuate` adds L2F (Baik et al., CVPR 2020): a second network receives the gradient means at the initial weights and
shrinks each initial tensor by a factor in (0, 1). As in L2F's released code, the outer loop differentiates through
these gradient means in second order.

`random_initialization` is ALFA's variant without a learned initialisation: the network stays at its initial weights, of
which each task adapts a copy; only the rates, the decays and the generator are learned. The decay of each single weight
w is then beta_i b_i[j] d_w, with a learned d_w for each weight and b starting at 1.

Details the paper leaves open, from the released code: the outer loop does not differentiate through the gradient means
of `update`, but does through the weight means; the networks have one hidden layer and PyTorch's default initialisation.
The last rate and decay of each tensor, which are never used, are omitted.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.learners.base import LearnerContext
from fewshot.learners.context import DEFAULT_CONTEXT
from fewshot.learners.inner_loop import FastWeights
from fewshot.learners.maml import MAML
from fewshot.learners.settings import ALFASettings


class ALFA(MAML):
    """Adaptive learning of hyperparameters for fast adaptation; same arguments as `MAML`."""

    start_in_second_order = True
    settings_type = ALFASettings
    settings: ALFASettings

    def __init__(self, backbone: nn.Module, context: LearnerContext = DEFAULT_CONTEXT, **settings: Any) -> None:
        super().__init__(backbone, context, **settings)
        n = len(self.adaptable)
        shape, decay = (self.settings.inner_steps,), self.settings.inner_weight_decay
        random = self.settings.random_initialization
        self.rates = nn.ParameterList(torch.full(shape, self.inner_learning_rate) for _ in range(n))
        self.decays = nn.ParameterList(torch.full(shape, 1.0 if random else decay) for _ in range(n))
        self.weight_decays = nn.ParameterList()
        if random:
            weights = map(self.network.get_parameter, self.adaptable)
            self.weight_decays.extend(torch.full_like(weight, decay) for weight in weights)
            self.network.requires_grad_(False)
        self.generator = nn.Sequential(nn.Linear(2 * n, 2 * n), nn.ReLU(), nn.Linear(2 * n, 2 * n))
        self.attenuator = (
            nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n), nn.Sigmoid())
            if self.settings.attenuate
            else None
        )
        for part in (self.rates, self.decays, self.generator, self.attenuator):
            if part is not None:
                part.to(self.network.head.weight)  # dtype and device of the backbone

    def learned_weights(self) -> FastWeights:
        """Return the weights to adapt: those of `MAML`, or copies of the initial ones with `random_initialization`."""
        if not self.settings.random_initialization:
            return super().learned_weights()
        return {name: self.network.get_parameter(name).detach() for name in self.adaptable}

    def moved_at_start(self, fast: FastWeights) -> list[str]:
        """Return all names if `attenuate` is set."""
        return [] if self.attenuator is None else list(fast)

    def move_start(self, fast: FastWeights, gradients: FastWeights) -> FastWeights:
        """Return the attenuated initial weights."""
        assert self.attenuator is not None
        factors = dict(zip(self.adaptable, self.attenuator(self._means(gradients)), strict=True))
        return {name: factors[name] * weight for name, weight in fast.items()}

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return the decayed fast weights minus generated rates * gradients."""
        state = torch.cat([self._means(fast), self._means(gradients).detach()])
        alphas, betas = self.generator(state).chunk(2)
        updated = {}
        for i, name in enumerate(self.adaptable):
            if name in fast:
                decay = betas[i] * self.decays[i][inner_step]
                if self.weight_decays:
                    decay = decay * self.weight_decays[i]
                rate = alphas[i] * self.rates[i][inner_step]
                updated[name] = (1 - decay) * fast[name] - rate * gradients[name]
        return updated

    def _means(self, tensors: FastWeights) -> Tensor:
        """Return the mean of each tensor, (n,); 0 for those of frozen weights."""
        zero = self.network.head.weight.new_zeros(())
        return torch.stack([tensors[name].mean() if name in tensors else zero for name in self.adaptable])
