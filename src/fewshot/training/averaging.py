"""The mean of a learner's weights over the last epochs of a training.

Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018. They recompute
the batch-norm statistics with the averaged weights; here the statistics are averaged like the weights.
"""

from typing import Any

from torch import Tensor, nn

from fewshot.experiments.params import Recipe


class WeightAverage:
    """Sums of all tensors over states of a learner, in float64, so that their mean is exact to float32.

    Attributes:
        count: states added so far.
        sums: by the names of the learner's tensors; of an integer, such as a counter of batches, the last value.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, learner: nn.Module) -> None:
        """Add the present state of a learner."""
        for name, value in learner.state_dict().items():
            if value.is_floating_point():
                value = value.detach().cpu().double()
                self.sums[name] = value + self.sums[name] if self.count else value
            else:
                self.sums[name] = value.detach().cpu().clone()
        self.count += 1

    def load_into(self, learner: nn.Module) -> None:
        """Give a learner the mean of the states."""
        learner.load_state_dict(
            {name: total / self.count if total.is_floating_point() else total for name, total in self.sums.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"count": self.count, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint stored."""
        self.count, self.sums = state["count"], state["sums"]


def is_averaged(recipe: Recipe, epoch: int) -> bool:
    """Return whether the weights after an epoch (from 1) are part of the average."""
    return recipe.average_checkpoints > 1 and epoch > recipe.epochs - recipe.average_checkpoints
