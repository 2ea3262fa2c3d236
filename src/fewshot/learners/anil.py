"""ANIL (Raghu et al., ICLR 2020): MAML whose inner loop updates only the head; the outer loop trains everything.

The backbone does not change during adaptation, so the support set is embedded once (as in LibFewShot).
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from fewshot.learners.inner_loop import FastWeights, Task
from fewshot.learners.maml import MAML
from fewshot.learners.settings import ANILSettings


class ANIL(MAML):
    """Almost no inner loop; same arguments as `MAML`."""

    settings_type = ANILSettings
    settings: ANILSettings

    def choose_adaptable(self) -> list[str]:
        """Return the names of the head's parameters."""
        return [name for name in super().choose_adaptable() if name.startswith("head.")]

    def prepare(self, task: Task) -> Task:
        """Embed the support set."""
        return replace(task, support_embedding=self.network.embed(task.support_images, "batch", 0))

    def support_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the support images, (S, M), from their embedding."""
        assert task.support_embedding is not None
        return F.linear(task.support_embedding, fast["head.weight"], fast["head.bias"])

    def support_passes(self) -> float:
        """Return 1: the support set is embedded once."""
        return 1.0
