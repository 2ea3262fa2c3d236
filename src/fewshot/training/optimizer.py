"""The outer optimiser and its update, which on NVIDIA GPUs is recorded once and replayed."""

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
    options: dict[str, Any] = {"fused": True} if on_gpu else {}
    if recipe.optimizer == "adam":
        if on_gpu:
            options["capturable"] = True
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
    optimizer.register_load_state_dict_post_hook(_keep_options(options))
    return optimizer


def _keep_options(options: dict[str, Any]) -> Any:
    """Return a hook that undoes the options of another device, with which a checkpoint may have been written."""
    defaults = {"fused": None, "capturable": False, **options}

    def hook(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group.update({name: value for name, value in defaults.items() if name in group})

    return hook


class Update:
    """Changes the weights by their gradients.

    Args:
        optimizer: of the learner.
        learner: whose gradients are limited first, if its method does so.
        device: of the learner.

    Attributes:
        rate: learning rate of the last step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, learner: Learner, device: torch.device) -> None:
        self.optimizer, self.learner = optimizer, learner
        self.rate = float(optimizer.param_groups[0]["lr"])
        self._rate_on_gpu = torch.zeros((), device=device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._gradients: list[Tensor | None] = []

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next update."""
        self.rate = rate
        if self._rate_on_gpu is not None:
            self._rate_on_gpu.fill_(rate)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate if self._rate_on_gpu is None else self._rate_on_gpu

    def apply(self, recorded: bool = False) -> None:
        """Update the weights.

        Args:
            recorded: whether the gradients are in the memory of a recorded step, so that this update can be recorded
                as well.
        """
        gradients = [parameter.grad for parameter in self.learner.parameters()]
        if not recorded:
            self._update()
        elif self._graph is not None and all(g is r for g, r in zip(gradients, self._gradients, strict=True)):
            self._graph.replay()
        else:
            self._record(gradients)

    def _update(self) -> None:
        self.learner.limit_gradients()
        self.optimizer.step()

    def _record(self, gradients: list[Tensor | None]) -> None:
        self._graph, self._gradients = torch.cuda.CUDAGraph(), gradients
        with torch.cuda.graph(self._graph):
            self._update()
        self._graph.replay()
