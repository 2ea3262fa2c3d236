"""MAML and first-order MAML (Finn et al., ICML 2017): learn initial weights from which a few gradient steps fit a task.

For each task, K gradient steps on the support cross-entropy give fast weights, whose query cross-entropy is the outer
loss. Second-order MAML differentiates through the inner gradients; first-order MAML treats them as constants.

Details the paper leaves open, decided as in the released code of MAML++ and CxGrad:
  * All weights are adapted except those of batch norm, which are learned in the outer loop only.
  * Support and query are each normalised as one batch, at test time too (`batch_norm: transductive`); in the other
    modes, predictions do not depend on other queries.
  * Tasks are adapted at once (`tasks_at_once`): all of a batch on accelerators; on a CPU, as many as its caches serve
    (`episodes_per_pass`), each part of the batch being differentiated separately, so that memory does not grow with it.

Shapes: T episodes, M ways, S support images, Q query images, K inner steps, d features.
"""

import copy
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot.backbones.base import Backbone, check_module, embedding_size
from fewshot.backbones.conv4_maml import BatchNorm, Conv4MAML, Statistics, is_on_cpu
from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import ParamsError
from fewshot.learners.base import Learner, LearnerContext, LossOutput
from fewshot.learners.context import DEFAULT_CONTEXT, check_context, check_inner_loop_changes, check_per_query
from fewshot.learners.diagnostics import diagnose_task
from fewshot.learners.inner_loop import (
    FastWeights,
    InnerLoopMethod,
    InnerStep,
    Task,
    adapt,
    adapt_detached,
    split_tasks,
    stacked_tasks,
    task_losses,
)
from fewshot.learners.memory import map_bytes
from fewshot.learners.settings import EvaluationSettings, FOMAMLSettings, MAMLSettings
from fewshot.learners.tasks_at_once import TasksAtOnce, VectorizableMethod
from fewshot.settings import parse_as

VALUES_PER_PASS, QUERIES_PER_CLASS = 2**24, 15
"""On a CPU, tasks are adapted at once if the largest maps of their queries have at most so many values (measured)."""


class Network(nn.Module):
    """Backbone and linear head: images -> scores of M ways. The head has the backbone's dtype and device.

    Args:
        backbone: (N, C, H, W) -> (N, d).
        n_features: d.
        n_way: M.
    """

    def __init__(self, backbone: nn.Module, n_features: int, n_way: int) -> None:
        super().__init__()
        self.backbone = backbone
        like = next(backbone.parameters(), torch.empty(0))
        self.head = nn.Linear(n_features, n_way, dtype=like.dtype, device=like.device)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def embed(
        self, images: Tensor, statistics: Statistics, inner_step: int, precision: torch.dtype | None = None
    ) -> Tensor:
        """Return embeddings (N, d); backbones other than Conv4MAML always use batch statistics."""
        if isinstance(self.backbone, Conv4MAML):
            return self.backbone(images, statistics, inner_step, precision)
        return self.backbone(images)

    def forward(
        self, images: Tensor, statistics: Statistics, inner_step: int, precision: torch.dtype | None = None
    ) -> Tensor:
        """Return scores (N, M) of images (N, C, H, W); see `Conv4MAML.forward` for the other arguments."""
        return self.head(self.embed(images, statistics, inner_step, precision))


def check_no_layer_twice(name: str, backbone: nn.Module) -> None:
    """Raise `ParamsError` if a layer with weights has two names: `functional_call` would leave fast weights in it."""
    seen: dict[nn.Module, str] = {}
    for place, module in backbone.named_modules(remove_duplicate=False):
        first = seen.setdefault(module, place)
        if first != place and any(True for _ in module.parameters()):
            raise ParamsError(
                f"{name} cannot adapt a backbone whose layer has two names, {first!r} and {place!r}; keep one of the "
                "attributes and call it twice"
            )


class MAML(Learner):
    """MAML; the base class of the other gradient-based learners.

    The inner loop updates the weights that require a gradient; frozen ones (`requires_grad_(False)`) stay as they are.
    Any module can be the backbone. Unless it is a `Conv4MAML`, its batch-norm layers lose their running statistics and
    always use those of the batch (`batch_norm: transductive`), in evaluation too.

    Attributes:
        tasks_at_once: whether to adapt all tasks of a batch at once, with the same results up to rounding; None: with
            the backbone Conv4MAML, all on devices other than the CPU, and on a CPU as many as are faster together.

    Args:
        backbone: (N, C, H, W) -> (N, d); d is its `embedding_size` or determined by embedding blank images.
        context: the number of ways and the image size, see `LearnerContext`.
        settings: fields of `settings_type`; missing ones take their defaults.

    Raises:
        TypeError: if the backbone is not a module.
        ParamsError: if a setting is unknown or out of range, or backbone, context and settings do not fit together.

    >>> import torch
    >>> from torch import nn
    >>> from fewshot.episodes import EpisodeBatch
    >>> from fewshot.learners import MAML, LearnerContext
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    >>> learner = MAML(backbone, LearnerContext(n_way=2, image_size=16), inner_steps=3, inner_learning_rate=0.1)

    Four episodes, 2-way 1-shot, with three queries per class; one outer step of training, then scores of the queries:

    >>> support, support_labels = torch.rand(4, 2, 3, 16, 16), torch.tensor([0, 1]).expand(4, -1)
    >>> query, query_labels = torch.rand(4, 6, 3, 16, 16), torch.tensor([0, 0, 0, 1, 1, 1]).expand(4, -1)
    >>> batch = EpisodeBatch(support, support_labels, query, query_labels, torch.arange(4), n_way=2)
    >>> optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    >>> learner.loss(batch, step=0).loss.backward()
    >>> optimizer.step()
    >>> learner.eval().logits(batch).shape
    torch.Size([4, 6, 2])
    """

    tasks_at_once: bool | None = None
    start_in_second_order = False
    settings_type: ClassVar[type[MAMLSettings]] = MAMLSettings
    settings: MAMLSettings

    def __init__(self, backbone: nn.Module, context: LearnerContext = DEFAULT_CONTEXT, **settings: Any) -> None:
        super().__init__()
        self.settings = parse_as(self.settings_type, settings, where="")
        self.context = context
        self.batch_norm = self.settings.batch_norm
        self.evaluation_steps = self.settings.inner_steps
        self.inner_learning_rate = self.settings.inner_learning_rate
        check_context(type(self).__name__, context)
        check_module(backbone)
        self.check_backbone(backbone)
        if not isinstance(backbone, Conv4MAML):
            replace_all_batch_norm_modules_(backbone)
        self.network = Network(backbone, embedding_size(backbone, context.image_size), context.n_way)
        self.adaptable = self.choose_adaptable()
        self.learned_weights()

    @property
    def trained_backbone(self) -> nn.Module:
        """The backbone, without the linear head."""
        return self.network.backbone

    @classmethod
    def build(
        cls,
        name: str,
        settings: MAMLSettings,
        backbone: str,
        backbone_settings: dict[str, Any],
        context: LearnerContext,
    ) -> Self:
        """Return the learner; see `fewshot.learners.build_learner`."""
        assert backbone == "conv4_maml", "`check_adaptive` of the registry entry rejects other backbones"
        network = Conv4MAML(
            context.image_size,
            **backbone_settings,
            running_statistics=False,
            batch_norm_steps=cls.batch_norm_steps(settings),
        )
        return cls(network, context, **settings.model_dump())

    @classmethod
    def batch_norm_steps(cls, settings: Any) -> int | None:
        """Return the number of batch-norm weight sets (one per inner step), or None for a single set."""
        return None

    def check_backbone(self, backbone: nn.Module) -> None:
        """Raise `ParamsError` unless the backbone supports the settings."""
        name, n_sets = type(self).__name__, self.batch_norm_steps(self.settings)
        if not isinstance(backbone, Conv4MAML):
            check_no_layer_twice(name, backbone)
            for setting, needed in {
                "per_step_batch_norm": n_sets is not None,
                f"batch_norm {self.batch_norm!r}": self.batch_norm != "transductive",
                "checkpoint_inner_steps": self.settings.checkpoint_inner_steps,
                "query_precision 'bfloat16'": self.settings.query_precision != "float32",
            }.items():
                if needed:
                    raise ParamsError(
                        f"{name}: {setting} needs the backbone Conv4MAML, not {type(backbone).__name__}; allowed for "
                        "other backbones: batch_norm 'transductive' and query_precision 'float32', without "
                        "per_step_batch_norm and checkpoint_inner_steps"
                    )
            return
        if backbone.batch_norm_steps != n_sets:
            raise ParamsError(
                f"{name}: the backbone was built with batch_norm_steps={backbone.batch_norm_steps}; with these "
                f"settings it must be Conv4MAML(..., batch_norm_steps={n_sets})"
            )
        if self.batch_norm == "per_query":
            check_per_query(name, backbone.last_map_side, backbone.image_size)

    # Overridden by the variants

    def choose_adaptable(self) -> list[str]:
        """Return the names of what the inner loop updates unless it is frozen: all weights but those of batch norm."""
        norms = tuple(
            f"{name}." for name, module in self.network.named_modules() if isinstance(module, (BatchNorm, _BatchNorm))
        )
        return [name for name, _ in self.network.named_parameters() if not name.startswith(norms)]

    def prepare(self, task: Task) -> Task:
        """Compute once whatever all inner steps of a task share."""
        return task

    def initial_weights(self, task: Task) -> FastWeights:
        """Return the weights from which the inner loop starts: the learned ones."""
        return self.learned_weights()

    def moved_at_start(self, fast: FastWeights) -> list[str]:
        """Return the names of the initial weights whose support gradient `move_start` needs: none.

        The graph of these gradients is kept in second order if `start_in_second_order` is set.
        """
        return []

    def move_start(self, fast: FastWeights, gradients: FastWeights) -> FastWeights:
        """Return the initial weights after a change that depends on the support gradient: no change."""
        return fast

    def rescale(self, fast: FastWeights) -> FastWeights:
        """Return the weights at which to compute the next support loss: the fast weights, unchanged."""
        return fast

    def update(self, fast: FastWeights, gradients: FastWeights, inner_step: int) -> FastWeights:
        """Return fast weights - inner learning rate * gradients."""
        return {name: weight - self.inner_learning_rate * gradients[name] for name, weight in fast.items()}

    def query_importance(self, epoch: int) -> list[float]:
        """Return the weight of the query loss after each inner step, (K,): all on the last step."""
        return [0.0] * (self.settings.inner_steps - 1) + [1.0]

    def diagnose_step(self, step: InnerStep) -> dict[str, np.ndarray]:
        """Return the arrays that the method adds to `diagnostics.diagnose_task` for one inner step."""
        return {}

    # Shared by all variants

    @property
    def adapted(self) -> list[str]:
        """Names of the parameters that the inner loop updates at present."""
        return list(self.learned_weights())

    def learned_weights(self) -> FastWeights:
        """Return the adaptable parameters that require a gradient; frozen ones stay as they are, in both loops.

        Raises:
            ParamsError: if there is none.
        """
        parameters = self.network.named_parameters()
        weights: FastWeights = {name: p for name, p in parameters if name in self.adaptable and p.requires_grad}
        if not weights:
            raise ParamsError(
                f"{type(self).__name__} has nothing to adapt: {type(self.network.backbone).__name__} has no weights "
                "apart from batch norm, or all weights that the inner loop updates are frozen; set requires_grad (in "
                "evaluation too) or use another backbone"
            )
        return weights

    def support_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the support images, (S, M)."""
        return self._call(fast, task.support_images, "batch", inner_step)

    def query_logits(self, task: Task, fast: FastWeights, inner_step: int) -> Tensor:
        """Return the scores of the query images, (Q, M), with the batch-norm statistics chosen by `batch_norm`.

        In training, the convolutions are computed in `query_precision`.
        """
        low = self.training and self.settings.query_precision == "bfloat16"
        precision = torch.bfloat16 if low else None
        if self.batch_norm == "support":
            images = torch.cat([task.support_images, task.query_images])
            n_support = len(task.support_images)
            return self._call(fast, images, n_support, inner_step, precision)[n_support:]
        statistics: Statistics = "image" if self.batch_norm == "per_query" else "batch"
        return self._call(fast, task.query_images, statistics, inner_step, precision)

    def _call(
        self,
        fast: FastWeights,
        images: Tensor,
        statistics: Statistics,
        inner_step: int,
        precision: torch.dtype | None = None,
    ) -> Tensor:
        """Return the scores (N, M) of images under the fast weights, ignoring any that are not network weights."""
        weights = {name: fast[name] for name in self.adaptable if name in fast}
        return functional_call(self.network, weights, (images, statistics, inner_step, precision))

    def second_order(self, epoch: int) -> bool:
        """Return whether this epoch (from 0) differentiates through the inner gradients."""
        return self.settings.second_order and epoch >= self.settings.first_order_epochs

    @property
    def episodes_per_pass(self) -> int | None:
        """How many episodes to adapt at once; None: all of a batch."""
        backbone = self.network.backbone
        if self.tasks_at_once is not None:
            return None if self.tasks_at_once else 1
        if not isinstance(backbone, Conv4MAML):
            return 1
        if not is_on_cpu(self.network.head.weight):
            return None
        if self.batch_norm != "transductive" or backbone.pools_globally:
            return 1
        return max(1, VALUES_PER_PASS // (self.context.n_way * QUERIES_PER_CLASS * backbone.largest_map))

    @property
    def episodes_per_backward(self) -> int | None:
        """Those adapted at once, or 1 if memory is to be saved."""
        return 1 if self.settings.checkpoint_inner_steps else self.episodes_per_pass

    def adapt(self, task: Task, epoch: int) -> Iterator[InnerStep]:
        """Yield the inner steps of a training task."""
        return self._adapt(self, self.prepare(task), epoch)

    @property
    def recordable(self) -> bool:
        """Whether the backbone is this project's, and no inner step is computed again in the backward pass."""
        return isinstance(self.network.backbone, Conv4MAML) and not self.settings.checkpoint_inner_steps

    def set_step(self, step: int) -> None:
        """Set the global outer step (from 0) of the backbone."""
        if isinstance(self.network.backbone, Backbone):
            self.network.backbone.set_step(step)

    def phase(self, step: int) -> Hashable:
        """Return the order of the inner gradients and the weights of the query losses, which change with the epoch."""
        epoch = step // self.context.steps_per_epoch
        return self.second_order(epoch), tuple(self.query_importance(epoch))

    def loss(self, batch: EpisodeBatch, step: int) -> LossOutput:
        """Return the mean query cross-entropy after adaptation at global outer step `step` (from 0).

        Raises:
            NumericalError: if a support loss is not finite.
            ParamsError: if the number of ways differs from the head's.
        """
        self._check_ways(batch)
        self.set_step(step)
        epoch = step // self.context.steps_per_epoch
        importance = self.query_importance(epoch)
        total, hits = batch.query_images.new_zeros(()), []
        for method, task in self._tasks(batch):
            for inner in self._adapt(method, method.prepare(task), epoch):
                if importance[inner.index] == 0:
                    continue
                logits = method.query_logits(task, inner.updated, inner.index)
                total = total + importance[inner.index] * task_losses(logits, task.query_labels).sum()
            hits.append((logits.detach().argmax(-1) == task.query_labels).float().flatten())
        return LossOutput(total / len(batch), torch.cat(hits).mean())

    def logits(self, batch: EpisodeBatch) -> Tensor:
        """Return the scores of the query images, (T, Q, M), after adaptation, without a graph.

        Raises:
            NumericalError: if a support loss is not finite.
            ParamsError: if the number of ways differs from the head's.
        """
        self._check_ways(batch)
        scores = [self._adapted_logits(method, task).flatten(0, -2) for method, task in self._tasks(batch)]
        return torch.cat(scores).view((*batch.query_labels.shape, batch.n_way))

    def _tasks(self, batch: EpisodeBatch) -> Iterator[tuple[VectorizableMethod, Task]]:
        """Yield the tasks of a batch, each with the methods for it, or several at once with theirs."""
        for part in batch.chunks(self.episodes_per_pass or len(batch)):
            if self.episodes_per_pass is not None and len(part) == 1:
                yield self, next(split_tasks(part))
            else:
                yield TasksAtOnce(self), stacked_tasks(part)

    def _adapt(self, method: InnerLoopMethod, task: Task, epoch: int) -> Iterator[InnerStep]:
        return adapt(
            method,
            task,
            self.settings.inner_steps,
            second_order=self.second_order(epoch),
            recompute=self.settings.checkpoint_inner_steps,
        )

    def _adapted_logits(self, method: VectorizableMethod, task: Task) -> Tensor:
        with torch.no_grad():
            task = method.prepare(task)
        for inner in adapt_detached(method, task, self.evaluation_steps):
            last = inner
        with torch.no_grad():
            return method.query_logits(task, last.updated, last.index)

    def for_evaluation(self, changes: EvaluationSettings) -> Self:
        """Return this learner, sharing its weights, with another number of inner steps or batch norm in evaluation."""
        check_inner_loop_changes(type(self).__name__, self.settings, changes)
        changed = copy.copy(self)
        changed.evaluation_steps = changes.inner_steps or self.evaluation_steps
        changed.batch_norm = changes.batch_norm or self.batch_norm
        changed.check_backbone(self.network.backbone)
        return changed

    def stages(self) -> dict[str, nn.Module]:
        """Return the parts of the backbone to diagnose: prefix of their parameters' names -> part."""
        backbone = self.network.backbone
        if not isinstance(backbone, Conv4MAML):
            return {"backbone.": backbone}
        return {f"backbone.stages.{number}.": stage for number, stage in enumerate(backbone.stages)}

    def diagnose(self, batch: EpisodeBatch) -> dict[str, np.ndarray]:
        """Return the arrays of `diagnostics.diagnose_task` for each episode, first axis T."""
        self._check_ways(batch)
        found = [diagnose_task(self, task, self.evaluation_steps) for task in split_tasks(batch)]
        return {name: np.stack([of_task[name] for of_task in found]) for name in found[0]}

    def estimate_step_bytes(self, *, n_shot: int, n_query: int, episodes: int) -> int:
        """Return the memory an outer step needs, excluding the program itself, bytes (within a factor of 2).

        Counts the feature maps that autograd keeps, and the weights with their gradients and two Adam states. On
        accelerators, the operations that treat all tasks at once keep half as much again (measured).

        Args:
            n_shot: support images per class.
            n_query: query images per class.
            episodes: episodes differentiated at once.
        """
        backbone = self.network.backbone
        per_image = map_bytes(backbone, getattr(backbone, "image_size", self.context.image_size))
        query_passes = sum(weight > 0 for weight in self.query_importance(0))
        per_query_pass = n_query + n_shot * (self.batch_norm == "support")
        images = episodes * self.context.n_way * (query_passes * per_query_pass + self.support_passes() * n_shot)
        return round(images * per_image * (1 if is_on_cpu(self.network.head.weight) else 1.5)) + 4 * sum(
            parameter.nbytes for parameter in self.parameters()
        )

    def support_passes(self) -> float:
        """Return how many copies of the support set's maps are kept at once.

        A second-order inner step keeps its maps and about 60 % as much for their gradients (measured).
        """
        if self.settings.second_order and not self.settings.checkpoint_inner_steps:
            return 1.6 * self.settings.inner_steps
        return 1.5

    def _check_ways(self, batch: EpisodeBatch) -> None:
        if batch.n_way != self.context.n_way:
            raise ParamsError(
                f"this learner has a linear head for {self.context.n_way} ways but the episodes have {batch.n_way}; "
                f"evaluate it with n_way {self.context.n_way}, or train it with recipe n_way {batch.n_way}"
            )


class FOMAML(MAML):
    """First-order MAML."""

    settings_type = FOMAMLSettings
