"""How long an outer step takes, and what the device does meanwhile; how long a validation takes.

Times are wall times of `OuterStep.take`, which draws, gathers, copies and augments the images, computes loss and
gradients, and updates the weights: everything but checkpoints and validation, which is timed on its own.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.gpu.families import (
    ADAPTIVE,
    COMPILED,
    EPISODIC,
    FORMS,
    ON_MINIBATCHES,
    Scale,
    drawn_batch,
    label,
    offered_forms,
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
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.learners.base import Learner
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup

WARM_UP, FEWEST, MOST, SECONDS = 3, 3, 50, 2.5
COMPILED_FAMILIES = (EPISODIC[4], EPISODIC[6], *ON_MINIBATCHES)
ADAPTED_EPISODES = 64  # of a validation by learners that adapt to each episode; scaled to the recipe's number
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")


def cases(scale: Scale) -> list[Case]:
    """Return the cases of this part: float32 first, compiled ones, which take longest to start, last."""
    experiments = trainings()
    offered = {
        training: list(offered_forms(experiments[training])) for training in (*EPISODIC, *ADAPTIVE, *ON_MINIBATCHES)
    }
    wanted = [
        (training, form, changes)
        for form, changes in FORMS.items()
        for training in offered
        if form in offered[training]
    ]
    wanted += [(training, form, changes) for form, changes in COMPILED.items() for training in COMPILED_FAMILIES]
    found = []
    for training, form, changes in wanted:
        experiment = scale.to(experiments[training], **changes)
        found.append(
            Case("timing", f"{label(experiment)}, {form}", partial(time_training, scale, experiment, training, form))
        )
    return found


def time_training(scale: Scale, experiment: Experiment, training: str, form: str) -> Outcome:
    """Time the outer steps and the validation of one training."""
    reproducible_arithmetic(experiment.recipe.precision)
    if experiment.recipe.compile:
        torch.compiler.reset()  # or it gives up compiling after a few shapes
    store = random_store(experiment.image_size, tiny=scale.tiny)
    learner = initial_learner(experiment).to(scale.device)
    numbers: dict[str, Any] = {
        "training": training,
        "label": label(experiment),
        "form": form,
        "precision": experiment.recipe.precision,
        "images": images_per_step(experiment),
        "flop": count_flop(scale, experiment, store.split("train")),
    }
    outer_step = OuterStep(experiment, store.split("train"), learner, ProcessGroup(device=scale.device))
    if scale.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(scale.device)
    steps = itertools.count()

    def take(ahead: bool = True) -> None:
        outer_step.take(next(steps), ahead=ahead)  # as within an epoch of a training

    seconds = median_seconds(scale, take)
    numbers["step_s"] = seconds
    text = f"{1e3 * seconds:.1f} ms per step, {numbers['flop'] / seconds / 1e12:.3g} TFLOP/s"
    if scale.device.type == "cuda":
        numbers["peak_bytes"] = torch.cuda.max_memory_allocated(scale.device)
        activity = watch(scale, take)
        numbers |= {**vars(activity), "busy": activity.busy_s / seconds}
        text += (
            f", {activity.kernels} kernels by {activity.launches} launches, {activity.waits} waits, "
            f"busy {activity.busy_s / seconds:.0%}, peak {numbers['peak_bytes'] / 2**30:.1f} GiB"
        )
    take(ahead=False)  # as at the end of an epoch
    numbers |= time_validation(scale, experiment, store, learner)
    if "validation_s" in numbers:
        text += f"; validation {numbers['validation_s']:.2f} s"
    return text, None, numbers


def images_per_step(experiment: Experiment) -> int:
    """Return how many images an outer step embeds once or adapts to."""
    recipe = experiment.recipe
    if recipe.batch_size is not None:
        return recipe.batch_size
    return recipe.meta_batch * recipe.n_way * (recipe.n_shot + recipe.n_query)


def median_seconds(scale: Scale, take: Callable[[], object]) -> float:
    """Return the median time of a step, which ends by reading its loss, seconds, after a few to warm up."""
    times: list[float] = []
    step = 0
    while step < WARM_UP + FEWEST or (step < WARM_UP + MOST and sum(times) < SECONDS and not scale.tiny):
        start = time.perf_counter()
        take()
        if step >= WARM_UP:
            times.append(time.perf_counter() - start)
        step += 1
    return statistics.median(times)


def count_flop(scale: Scale, experiment: Experiment, split: SplitStore) -> int:
    """Return the floating-point operations of loss and gradients of an outer step: convolutions and matrix products.

    Counted on as many episodes as one backward pass takes, and scaled to the meta-batch.
    """
    recipe = experiment.recipe.model_copy(update={"compile": False})
    learner = initial_learner(replace(experiment, recipe=recipe)).to(scale.device)
    at_once = learner.episodes_per_backward or recipe.items_per_step
    raw = next(drawn_batch(experiment, split, 0).chunks(at_once))
    batch = preprocessing(experiment)(raw.to(scale.device), training=True)
    with FlopCounter() as counter:
        learner.train().loss(batch, 0).loss.backward()
    return counter.flop * recipe.items_per_step // len(batch)


class FlopCounter(TorchDispatchMode):
    """Counts as torch's `FlopCounterMode` does, but without its hooks on modules, which double backward refuses."""

    flop = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        result = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(getattr(function, "_overloadpacket", None))) is not None:
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
