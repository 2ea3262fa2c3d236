"""Does the device compute what the CPU computes? Compared with float64 on the CPU.

Episodes are small, since agreement does not depend on their size. In float64 the device must agree to 1e-6; in float32
its error may be 30 times that of the CPU, and 1e-3 more: a single max-pool or ReLU that rounding decides differently
moves a layer's gradient by that much, on the CPU too. The error of lower precisions is shown, not judged.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from benchmarks.gpu.families import (
    ADAPTIVE,
    EPISODIC,
    ON_MINIBATCHES,
    Scale,
    checked_split,
    drawn_batch,
    label,
    offered_forms,
    trainings,
    without_dropout,
)
from benchmarks.gpu.findings import Case, Outcome
from torch import Tensor

from fewshot.backbones import BACKBONES, build_backbone
from fewshot.episodes.draw import draw_episodes
from fewshot.episodes.form import EpisodeForm
from fewshot.evaluation.scoring import score_episodes
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.heads import HEADS, build_head
from fewshot.images.preprocess import Preprocess
from fewshot.training.outer_step import OuterStep
from fewshot.training.parallel import ProcessGroup

CPU = torch.device("cpu")
STRICT, TIMES_CPU, ROUNDING = 1e-6, 30, 1e-3
NO_GRADIENT = 1e-7  # weights in front of a batch norm have a gradient of zero, up to rounding
SAME_PREDICTIONS = 0.98
STEPS, SAME_LOSS = 4, 0.02  # rounding grows from step to step; a step with wrong inputs is further away
Run = Callable[[torch.device, torch.dtype], list[Tensor]]
NOTHING: Mapping[str, Run] = {}


def cases(scale: Scale) -> list[Case]:
    """Return the cases of this part."""
    found, sizes = [], (16,) if scale.tiny else (32, 84)
    for size in sizes:
        for jitter, padding in ((0.4, 8), (0.0, 4)):
            name = f"augmentation, {size} px, jitter {jitter}, padding {padding}"
            found.append((name, partial(augmentation, scale, size, jitter, padding)))
    shots = (1,) if scale.tiny else (1, 5, 15)
    found += [(f"head {head}, {n}-shot", partial(head_agrees, scale, head, n)) for head in HEADS for n in shots]
    found += [(f"backbone {name}", partial(backbone_agrees, scale, name)) for name in BACKBONES if name != "pixels"]
    experiments = trainings()
    for training in (*EPISODIC, *ADAPTIVE):
        experiment = scale.to(experiments[training], checking=True)
        found.append((f"training step of {label(experiment)}", partial(step_agrees, scale, experiment)))
    for training in (*EPISODIC, *ADAPTIVE, *ON_MINIBATCHES):
        experiment = scale.to(experiments[training], checking=True)
        found.append((f"losses of {label(experiment)}", partial(losses_agree, scale, experiment)))
    for training in (EPISODIC[1], EPISODIC[4], ADAPTIVE[0], ADAPTIVE[3]):
        experiment = scale.to(experiments[training], checking=True)
        found.append((f"evaluation of {label(experiment)}", partial(evaluation_agrees, scale, experiment)))
    return [Case("agreement", name, run) for name, run in found]


def augmentation(scale: Scale, size: int, jitter: float, padding: int) -> Outcome:
    """Compare preprocessed images bit by bit, augmented and not."""
    experiment = scale.to(trainings()[EPISODIC[0]], checking=True)
    batch = drawn_batch(experiment, checked_split(size), 7)
    mean, std = (0.47, 0.45, 0.41), (0.28, 0.27, 0.28)
    preprocess = Preprocess(size, mean=mean, std=std, crop_padding=padding, jitter=jitter, flip=True)
    different = 0
    for training in (True, False):
        host, device = preprocess(batch, training=training), preprocess(batch.to(scale.device), training=training)
        for name in ("support_images", "query_images"):
            different += int((getattr(host, name) != getattr(device, name).cpu()).sum())
    return f"{different} values differ", different == 0, {"different": different}


def head_agrees(scale: Scale, name: str, n_shot: int) -> Outcome:
    """Compare scores and gradients of a head on random embeddings."""
    features = 64 if scale.tiny else 1600
    generator = torch.Generator().manual_seed(1)

    def embeddings(images: int) -> Tensor:
        return torch.randn(8, images, features, generator=generator, dtype=torch.float64) * 4 / features**0.5

    support, query = embeddings(5 * n_shot), embeddings(30)
    labels = torch.arange(5).repeat_interleave(n_shot).repeat(8, 1)

    def run(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        inputs = [value.to(dtype).to(device).requires_grad_() for value in (support, query)]
        scores = build_head(name).to(device)(inputs[0], labels.to(device), inputs[1], n_way=5)
        return [scores.detach(), *torch.autograd.grad(scores.square().sum(), inputs)]

    return compare(scale, run)


def backbone_agrees(scale: Scale, name: str) -> Outcome:
    """Compare embeddings and gradients of a backbone in training mode."""
    off = {"resnet12": {"drop_rate": 0.0, "dropblock": "off"}, "r2d2": {"dropout3": 0.0, "dropout4": 0.0}}
    size = 16 if scale.tiny else 32
    images = torch.randn(10, 3, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def run(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(3)
        network = build_backbone(name, image_size=size, **off.get(name, {})).to(dtype).to(device).train()
        embedding = network(images.to(dtype).to(device))
        embedding.square().sum().backward()
        return [embedding.detach(), *(weight.grad for weight in network.parameters())]

    return compare(scale, run)


def step_agrees(scale: Scale, experiment: Experiment) -> Outcome:
    """Compare loss and gradients of a training step, in every precision."""
    raw = drawn_batch(experiment, checked_split(experiment.image_size), 3)
    batch = preprocessing(experiment)(raw, training=True)

    def run_in(precision: str) -> Run:
        recipe = experiment.recipe.model_copy(update={"precision": precision})

        def run(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
            reproducible_arithmetic(precision)
            learner = without_dropout(initial_learner(replace(experiment, recipe=recipe)).to(dtype).to(device))
            images = {name: getattr(batch, name).to(dtype).to(device) for name in ("support_images", "query_images")}
            loss = learner.train().loss(replace(batch.to(device), **images), 0).loss
            loss.backward()
            return [loss.detach(), *(weight.grad for weight in learner.parameters() if weight.grad is not None)]

        return run

    lower = {name: run_in(name) for name in offered_forms(experiment) if name != "float32"}
    return compare(scale, run_in("float32"), lower)


def losses_agree(scale: Scale, experiment: Experiment) -> Outcome:
    """Compare the losses of the first outer steps, some of which a GPU replays from a record."""
    reproducible_arithmetic()
    split, losses = checked_split(experiment.image_size), []
    for device in (CPU, scale.device):
        learner = without_dropout(initial_learner(experiment).to(device))
        outer_step = OuterStep(experiment, split, learner, ProcessGroup(device=device))
        losses.append([outer_step.take(step)[0] for step in range(STEPS)])
    apart = float(np.max(np.abs(np.array(losses[0]) / losses[1] - 1)))
    return f"{STEPS} losses up to {apart:.0e} apart", apart < SAME_LOSS, {"apart": apart}


def evaluation_agrees(scale: Scale, experiment: Experiment) -> Outcome:
    """Compare the predictions of an untrained learner on test episodes."""
    split, learner = checked_split(experiment.image_size), initial_learner(experiment)
    form = EpisodeForm(5, 5, 2 if scale.tiny else 15)
    episodes = draw_episodes(0, "test", np.arange(2 if scale.tiny else 20), form, split.class_sizes)
    predictions = []
    for device in (CPU, scale.device):
        models = [copy.deepcopy(learner).to(device)]
        scores = score_episodes(models, split, episodes, [1, 5], preprocessing(experiment), device)
        predictions.append(np.stack([scores[shot].predictions for shot in (1, 5)]))
    share = float((predictions[0] == predictions[1]).mean())
    return f"{share:.2%} of predictions as on the CPU", share > SAME_PREDICTIONS, {"same_predictions": share}


def compare(scale: Scale, run: Run, lower: Mapping[str, Run] = NOTHING) -> Outcome:
    """Judge a computation by its largest relative error from float64 on the CPU.

    Args:
        scale: names the device.
        run: the computation on a device in a dtype.
        lower: the computation in lower precisions, by name.
    """
    truth = run(CPU, torch.float64)
    strict = error_from(truth, run(scale.device, torch.float64))
    single = error_from(truth, run(scale.device, torch.float32))
    host = error_from(truth, run(CPU, torch.float32))
    numbers = {"float64": strict, "float32": single, "cpu_float32": host}
    text = f"error {strict:.0e} in float64, {single:.0e} in float32 (CPU: {host:.0e})"
    for precision, rounded in lower.items():
        numbers[precision] = error_from(truth, rounded(scale.device, torch.float32))
        text += f"; {precision} {numbers[precision]:.0e}"
    return text, strict < STRICT and single < TIMES_CPU * host + ROUNDING, numbers


def error_from(truth: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest relative error of tensors, by norm; not a number if one is not finite."""
    errors = [
        ((value.double().cpu() - true).norm() / true.norm()).item()
        for true, value in zip(truth, found, strict=True)
        if true.norm() > NO_GRADIENT
    ]
    return float(np.max(errors))
