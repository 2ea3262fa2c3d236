"""The outer optimiser and its update."""

from typing import Any

import torch
from torch import Tensor

from fewshot.experiments.params import Recipe
from fewshot.learners.base import Learner


def build_optimizer(recipe: Recipe, learner: Learner, device: torch.device) -> torch.optim.Optimizer:
    """Return the outer optimiser over all parameters of a learner.

    On CUDA, one kernel updates all weights, and the rate is a tensor: a recorded update can be replayed at any rate.
    """
    parameters = list(learner.parameters())
    on_gpu = device.type == "cuda"
    options: dict[str, Any] = {"fused": True if on_gpu else None}
    if recipe.optimizer == "adam":
        options["capturable"] = on_gpu
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, **options
        )
    else:
        optimizer = torch.optim.SGD(
            parameters,
            recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            **options,
        )
        if on_gpu and recipe.momentum:
            # The same as torch's own first step, which would leave a skipped update's momentum undefined.
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer.register_load_state_dict_pre_hook(_with_options(options))
    return optimizer


def _with_options(options: dict[str, Any]) -> Any:
    """Return a hook that gives a checkpoint, perhaps written on another device, the options of this one.

    They must be in place before torch loads it: they decide on which device Adam counts its steps.
    """

    def hook(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "param_groups": [{**group, **options} for group in state["param_groups"]]}

    return hook


class Update:
    """Changes the weights by their gradients.

    Args:
        optimizer: of the learner.
        learner: whose gradients are limited first, if its method does so.
        device: of the learner.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, learner: Learner, device: torch.device) -> None:
        self.optimizer, self.learner = optimizer, learner
        self._rate_on_gpu = torch.zeros((), device=device) if device.type == "cuda" else None

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next update."""
        if self._rate_on_gpu is not None:
            self._rate_on_gpu.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self._rate_on_gpu is None else self._rate_on_gpu

    def apply(self, skip: Tensor | None = None) -> None:
        """Update the weights.

        Args:
            skip: on CUDA, scalar float on the device: 1 leaves weights and optimiser as they are.
        """
        self.learner.limit_gradients()
        # What fused optimisers skip for, as they do for overflows in mixed-precision training.
        self.optimizer.found_inf = skip  # type: ignore[attr-defined]
        self.optimizer.step()
