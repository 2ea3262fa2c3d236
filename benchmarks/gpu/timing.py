"""How long an outer step takes, and what the device does meanwhile; how long a validation takes.

Times are wall times of `OuterStep.take`, which draws, gathers, copies and augments the images, computes loss and
gradients, and updates the weights: everything but checkpoints and validation, which is timed on its own.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.gpu.families import (
    ADAPTIVE,
    EPISODIC,
    PRECISIONS,
    Scale,
    drawn_batch,
    label,
    offered_precisions,
    random_store,
    trainings,
)
from benchmarks.gpu.findings import Case, Outcome
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fewshot.datasets.store import SplitStore, Store
from fewshot.episodes.draw import draw_episodes
from fewshot.evaluation.scoring import score_episodes
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.matrix import Experiment
from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.learners.base import Learner
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup

WARM_UP, FEWEST, MOST, SECONDS = 3, 3, 50, 2.5
ADAPTED_EPISODES = 64  # of a validation by learners that adapt to each episode; scaled to the recipe's number
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")


def cases(scale: Scale) -> list[Case]:
    """Return the cases of this part, those in float32 first."""
    experiments, found = trainings(), []
    families = [(training, list(offered_precisions(experiments[training]))) for training in (*EPISODIC, *ADAPTIVE)]
    for precision in PRECISIONS:
        for training, offered in families:
            if precision in offered:
                experiment = scale.to(experiments[training], precision=precision)
                name = f"{label(experiment)}, {precision}"
                found.append(Case("timing", name, partial(time_training, scale, experiment, training)))
    return found


def time_training(scale: Scale, experiment: Experiment, training: str) -> Outcome:
    """Time the outer steps and the validation of one training."""
    store = random_store(experiment.image_size, tiny=scale.tiny)
    reproducible_arithmetic(experiment.recipe.precision)
    learner = initial_learner(experiment).to(scale.device)
    outer_step = OuterStep(experiment, store.split("train"), learner, ProcessGroup(device=scale.device))
    if scale.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(scale.device)
    seconds = median_seconds(scale, outer_step.take)
    numbers: dict[str, Any] = {
        "training": training,
        "label": label(experiment),
        "precision": experiment.recipe.precision,
        "step_s": seconds,
        "images": images_per_step(experiment),
        "flop": count_flop(scale, experiment, learner, store.split("train")),
    }
    text = f"{1e3 * seconds:.1f} ms per step, {numbers['flop'] / seconds / 1e12:.3g} TFLOP/s"
    if scale.device.type == "cuda":
        numbers["peak_bytes"] = torch.cuda.max_memory_allocated(scale.device)
        activity = watch(scale, lambda: outer_step.take(MOST + WARM_UP))
        numbers |= {**vars(activity), "busy": activity.busy_s / seconds}
        text += (
            f", {activity.kernels} kernels by {activity.launches} launches, {activity.waits} waits, "
            f"busy {activity.busy_s / seconds:.0%}, peak {numbers['peak_bytes'] / 2**30:.1f} GiB"
        )
    numbers |= time_validation(scale, experiment, store, learner)
    if "validation_s" in numbers:
        text += f"; validation {numbers['validation_s']:.2f} s"
    return text, None, numbers


def images_per_step(experiment: Experiment) -> int:
    """Return how many images an outer step embeds once or adapts to."""
    recipe = experiment.recipe
    return recipe.meta_batch * recipe.n_way * (recipe.n_shot + recipe.n_query)


def median_seconds(scale: Scale, take: Callable[[int], object]) -> float:
    """Return the median time of a step, seconds, after a few to warm up."""
    times: list[float] = []
    step = 0
    while step < WARM_UP + FEWEST or (step < WARM_UP + MOST and sum(times) < SECONDS and not scale.tiny):
        start = time.perf_counter()
        take(step)
        scale.synchronize()
        if step >= WARM_UP:
            times.append(time.perf_counter() - start)
        step += 1
    return statistics.median(times)


def count_flop(scale: Scale, experiment: Experiment, learner: Learner, split: SplitStore) -> int:
    """Return the floating-point operations of loss and gradients of an outer step: convolutions and matrix products.

    Counted on as many episodes as one backward pass takes, and scaled to the meta-batch.
    """
    at_once = learner.episodes_per_backward or experiment.recipe.meta_batch
    raw = next(drawn_batch(experiment, split, 0).chunks(at_once))
    batch = preprocessing(experiment)(raw.to(scale.device), training=True)
    with FlopCounter() as counter:
        learner.train().loss(batch, 0).loss.backward()
    learner.zero_grad(set_to_none=True)
    return counter.flop * experiment.recipe.meta_batch // len(batch)


class FlopCounter(TorchDispatchMode):
    """Counts as torch's `FlopCounterMode` does, but without its hooks on modules, which double backward refuses."""

    flop = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        result = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass(frozen=True)
class Activity:
    """What a GPU did in one step.

    Attributes:
        kernels: kernels run; not copies and fills.
        launches: calls that started kernels or graphs of them.
        waits: times the host waited for the device.
        busy_s: time during which a kernel or a copy ran, seconds.
    """

    kernels: int
    launches: int
    waits: int
    busy_s: float


def watch(scale: Scale, work: Callable[[], object]) -> Activity:
    """Return what the GPU did while `work` ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        scale.synchronize()
    events = profile.profiler.kineto_results.events()
    on_device = [event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA]
    names = [event.name() for event in events]
    return Activity(
        kernels=sum(not event.name().startswith(("Memcpy", "Memset")) for event in on_device),
        launches=sum(name in LAUNCHES for name in names),
        waits=sum(name in WAITS for name in names),
        busy_s=covered([(event.start_ns(), event.start_ns() + event.duration_ns()) for event in on_device]) / 1e9,
    )


def covered(intervals: list[tuple[int, int]]) -> int:
    """Return the length of the union of intervals."""
    total, reached = 0, None
    for start, stop in sorted(intervals):
        if reached is None or stop > reached:
            total += stop - (start if reached is None else max(start, reached))
            reached = stop
    return total


def time_validation(scale: Scale, experiment: Experiment, store: Store, learner: Learner) -> dict[str, Any]:
    """Time a validation once; learners that adapt to each episode on fewer episodes than the recipe asks for."""
    recipe = experiment.recipe
    if not recipe.validates:
        return {}
    wanted, split, shot = recipe.validation.episodes, store.split("validation"), recipe.validation.n_shot
    taken = wanted if learner.caches_embeddings else min(ADAPTED_EPISODES, wanted)
    form = recipe.validation_form
    episodes = draw_episodes(experiment.seed, "validation", np.arange(taken), form, split.class_sizes)
    start = time.perf_counter()
    score_episodes([learner], split, episodes, [shot], preprocessing(experiment), scale.device)
    scale.synchronize()
    return {"validation_s": (time.perf_counter() - start) * wanted / taken, "validation_episodes": taken}
