"""MAML and first-order MAML (Finn et al., ICML 2017): learn weights from which a few gradient steps fit a new task.

For each task: K gradient steps on the support cross-entropy give fast weights; their query cross-entropy is the
outer loss. Second order differentiates through the inner gradients, first order takes them as constants.

Details the paper leaves open, and where each choice comes from (the MAML++ and CxGrad programs):
  * Convolutions and head are adapted; batch-norm weights are learned in the outer loop only.
  * Support and query are each normalised as one batch, at test time too (`batch_norm: transductive`); the other
    modes are inductive in the queries.
  * Each task is differentiated by itself (`episodes_per_backward`), so that memory does not grow with the meta-batch.

Shapes: T episodes, M ways, S support images, Q query images, K inner steps, d features.
"""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot.backbones.conv4_maml import BatchNorm, Conv4MAML, Statistics
from fewshot.backbones.settings import Conv4MAMLSettings
from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import ParamsError
from fewshot.learners.base import Learner, LearnerContext, LossOutput
from fewshot.learners.context import check_adaptive
from fewshot.learners.diagnostics import diagnose_task
from fewshot.learners.inner_loop import FastWeights, InnerStep, Task, adapt, adapt_detached, split_tasks


class Network(nn.Module):
    """Backbone and linear head: images -> scores of M ways."""

    def __init__(self, backbone: Conv4MAML, n_way: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embedding_size, n_way)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, statistics: Statistics, inner_step: int) -> Tensor:
        """Return scores (N, M) of images (N, C, H, W); see `BatchNorm.forward` for the other arguments."""
        return self.head(self.backbone(images, statistics, inner_step))


class MAML(Learner):
    """MAML; the base class of the other gradient-based learners.

    Args:
        network: what is adapted.
        settings: of the method.
        context: the experiment's form.
    """

    episodes_per_backward = 1
    check_parts = staticmethod(check_adaptive)

    def __init__(self, network: Network, settings: Any, context: LearnerContext) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.context = context
        self.batch_norm = settings.batch_norm
        self.inner_learning_rate = settings.inner_learning_rate
        self.adapted = self.choose_adapted()

    @classmethod
    def build(
        cls, name: str, settings: Any, backbone: str, backbone_settings: dict[str, Any], context: LearnerContext
    ) -> Self:
        """Return the learner; see `fewshot.learners.build_learner`."""
        cls.check_parts(name, settings, backbone, backbone_settings, context)
        network = Conv4MAML(
            context.image_size,
            **Conv4MAMLSettings(**backbone_settings).model_dump(),
            running_statistics=False,
            batch_norm_steps=cls.batch_norm_steps(settings),
        )
        return cls(Network(network, context.n_way), settings, context)

    @classmethod
    def batch_norm_steps(cls, settings: Any) -> int | None:
        """Return the number of batch-norm weight sets, one for each inner step, or None for a single set."""
        return None

    # What differs between the methods

    def choose_adapted(self) -> list[str]:
        """Return the names of the parameters that the inner loop moves: all but those of batch norm."""
        norms = [name for name, module in self.network.named_modules() if isinstance(module, BatchNorm)]
        return [name for name, _ in self.network.named_parameters() if not name.startswith(tuple(norms))]

    def prepare(self, task: Task) -> Task:
        """Compute once what all inner steps of a task share."""
        return task

    def initial_weights(self, task: Task) -> FastWeights:
        """Return the weights the inner loop starts from: the learned ones."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.adapted}

    def rescale(self, fast: FastWeights) -> FastWeights:
        """Return the weights at which the next support loss is taken: the fast weights as they are."""
        return fast

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return fast weights - inner learning rate * gradients."""
        return {name: weight - self.inner_learning_rate * gradients[name] for name, weight in fast.items()}

    def query_importance(self, epoch: int) -> list[float]:
        """Return the weight of the query loss after each inner step, (K,): only the last counts."""
        return [0.0] * (self.settings.inner_steps - 1) + [1.0]

    def describe(self, epoch: int, last: InnerStep) -> dict[str, Tensor]:
        """Return scalars for the history of training, from the last inner step of a task."""
        return {"support_loss": last.loss}

    def diagnose_step(self, step: InnerStep) -> dict[str, np.ndarray]:
        """Return what the method has to tell of an inner step in evaluation, beside `diagnostics.diagnose_task`."""
        return {}

    # What is common to all

    def support_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the support images, (S, M)."""
        return self._call(fast, task.support_images, "batch", inner_step)

    def query_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the query images, (Q, M), normalised as `batch_norm` says."""
        if self.batch_norm == "support":
            images = torch.cat([task.support_images, task.query_images])
            n_support = len(task.support_images)
            return self._call(fast, images, n_support, inner_step)[n_support:]
        return self._call(fast, task.query_images, "image" if self.batch_norm == "per_query" else "batch", inner_step)

    def _call(self, fast: FastWeights, images: Tensor, statistics: Statistics, inner_step: int) -> Tensor:
        """Return the scores (N, M) of images under the fast weights; a method may carry more than network weights."""
        weights = {name: fast[name] for name in self.adapted}
        return functional_call(self.network, weights, (images, statistics, inner_step))

    def second_order(self, epoch: int) -> bool:
        """Return whether this epoch (from 0) differentiates through the inner gradients."""
        return self.settings.second_order and epoch >= self.settings.first_order_epochs

    def adapt(self, task: Task, epoch: int) -> Iterator[InnerStep]:
        """Yield the inner steps of a training task."""
        return adapt(
            self,
            self.prepare(task),
            self.settings.inner_steps,
            second_order=self.second_order(epoch),
            recompute=self.settings.checkpoint_inner_steps,
        )

    def loss(self, batch: EpisodeBatch, step: int) -> LossOutput:
        """Return the mean query cross-entropy after adaptation at global outer step `step` (from 0).

        Raises:
            NumericalError: if a support loss is not finite.
            ParamsError: if the episodes have another number of ways than the head.
        """
        self._check_ways(batch)
        epoch = step // self.context.steps_per_epoch
        importance = self.query_importance(epoch)
        total, hits, metrics = batch.query_images.new_zeros(()), [], []
        for task in split_tasks(batch):
            for inner in self.adapt(task, epoch):
                if importance[inner.index] == 0:
                    continue
                logits = self.query_logits(task, inner.updated, inner.index)
                loss = F.cross_entropy(logits, task.query_labels)
                total = total + importance[inner.index] * loss
            hits.append((logits.detach().argmax(1) == task.query_labels).float().mean())
            metrics.append(self.describe(epoch, inner))
        means = {name: torch.stack([of_task[name] for of_task in metrics]).mean() for name in metrics[0]}
        return LossOutput(total / len(batch), torch.stack(hits).mean(), means)

    def logits(self, batch: EpisodeBatch) -> Tensor:
        """Return the scores of the query images, (T, Q, M), after adaptation; one task at a time, without a graph.

        Raises:
            NumericalError: if a support loss is not finite.
            ParamsError: if the episodes have another number of ways than the head.
        """
        self._check_ways(batch)
        return torch.stack([self._adapted_logits(task) for task in split_tasks(batch)])

    def _adapted_logits(self, task: Task) -> Tensor:
        with torch.no_grad():
            task = self.prepare(task)
        for inner in adapt_detached(self, task, self.settings.steps_in_evaluation):
            last = inner
        with torch.no_grad():
            return self.query_logits(task, last.updated, last.index)

    def diagnose(self, batch: EpisodeBatch) -> dict[str, np.ndarray]:
        """Return the arrays of `diagnostics.diagnose_task` for each episode, first axis T."""
        self._check_ways(batch)
        found = [diagnose_task(self, task) for task in split_tasks(batch)]
        return {name: np.stack([of_task[name] for of_task in found]) for name in found[0]}

    def estimate_step_bytes(self, *, n_shot: int, n_query: int, episodes: int) -> int:
        """Return about how much memory an outer step needs, bytes (within a factor of 2, the program not counted).

        Counted are the maps that autograd keeps, and the weights with their gradients and two states of Adam.

        Args:
            n_shot: support images a class.
            n_query: query images a class.
            episodes: episodes differentiated at once.
        """
        map_bytes, n_way = self.network.backbone.map_bytes, self.context.n_way
        support = n_way * n_shot * map_bytes("batch")
        if self.batch_norm == "transductive":
            query = n_way * n_query * map_bytes("batch")
        else:
            query = n_way * (n_query + n_shot * (self.batch_norm == "support")) * map_bytes("image")
        query_passes = sum(weight > 0 for weight in self.query_importance(0))
        graphs = max(query_passes * query + self.inner_loop_bytes(support), 3 * support)
        return episodes * graphs + 4 * sum(parameter.nbytes for parameter in self.parameters())

    def inner_loop_bytes(self, support: int) -> int:
        """Return what the inner loop keeps for the outer backward pass, if a support set's maps take `support` bytes.

        In second order each step keeps its maps and about half again for their gradients (measured).
        """
        if not self.settings.second_order or self.settings.checkpoint_inner_steps:
            return 0
        return self.settings.inner_steps * support * 8 // 5

    def _check_ways(self, batch: EpisodeBatch) -> None:
        if batch.n_way != self.context.n_way:
            raise ParamsError(
                f"this learner has a linear head for {self.context.n_way} ways but the episodes have {batch.n_way}; "
                f"evaluate it with n_way {self.context.n_way}, or train it with recipe n_way {batch.n_way}"
            )
