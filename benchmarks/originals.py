"""The outer steps of the papers' programs, re-created for `benchmarks.training`.

MetaOptNet: each image passes through PIL and torchvision's transforms; support and query images are embedded by two
forward passes in torch's default memory layout; the head solves a dense quadratic program by qpth; torch's SGD.
The networks are written in the papers' order: convolution, batch norm, activation, pool. ResNet-12 has no DropBlock
here, which costs the original little time and is in ours.

easyfsl, higher and learn2learn: their documented loops around the same networks.

MAML and CxGrad: images are divided by 255; tasks are adapted one after another, and the graphs of all tasks are kept
for one backward pass; torch's Adam.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.gpu.families import drawn_batch
from benchmarks.heads import released_ridge, released_svm
from benchmarks.inner_loop import higher_meta_step, learn2learn_meta_step
from PIL import Image
from torch import Tensor, nn

from fewshot.datasets.store import SplitStore
from fewshot.experiments.build import preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.heads import build_head
from fewshot.learners.episodic import smoothed_cross_entropy

RESNET12_WIDTHS = (3, 64, 160, 320, 640)
CONTEXT = 100  # of CxGrad
META_STEPS = {"higher": higher_meta_step, "learn2learn": learn2learn_meta_step}


def prototype_scores(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return the scores of the prototype head, which solves no program: ours."""
    scores: Tensor = build_head("prototype")(support, labels, query, n_way=n_way)
    return scores


HEADS = {"prototype": prototype_scores, "ridge": released_ridge, "svm": released_svm}


def metaoptnet_step(experiment: Experiment, split: SplitStore) -> Callable[[], None]:
    """Return a function that takes the next outer step of an episodic learner."""
    recipe, transform, steps = experiment.recipe, image_transform(experiment), count()
    network = conv4(64) if experiment.backbone.name == "conv4" else resnet12()
    scale = nn.Parameter(torch.ones(()))
    parameters = [*network.parameters(), scale]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True)
    head = HEADS[experiment.learner.name]

    def step() -> None:
        batch = drawn_batch(experiment, split, next(steps))
        support, query = (
            network(transformed(images, transform)).unflatten(0, images.shape[:2])
            for images in (batch.support_images, batch.query_images)
        )
        logits = scale * head(support, batch.support_labels, query, recipe.n_way)
        loss = smoothed_cross_entropy(logits, batch.query_labels, recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def transformed(images: Tensor, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """Return images (T, N, C, H, W) as one float batch (T * N, C, H, W), made one by one."""
    pictures = images.flatten(0, 1).permute(0, 2, 3, 1).numpy()
    return torch.stack([transform(Image.fromarray(picture)) for picture in pictures])


def image_transform(experiment: Experiment) -> Callable[[Image.Image], Tensor]:
    """Return torchvision's transforms for one image, in the papers' order."""
    import torchvision.transforms as T

    augmentation, preprocess = experiment.recipe.augmentation, preprocessing(experiment)
    transform: Callable[[Image.Image], Tensor] = T.Compose(
        [
            T.RandomCrop(experiment.image_size, padding=augmentation.crop_padding),
            T.ColorJitter(*[augmentation.jitter] * 3),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    return transform


def conv4(filters: int) -> nn.Module:
    """Return Conv4 in the paper's order."""
    layers: list[nn.Module] = []
    for i in range(4):
        convolution = nn.Conv2d(3 if i == 0 else filters, filters, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(filters), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten())


def resnet12() -> nn.Module:
    """Return ResNet-12 without regularisation."""
    return nn.Sequential(*(ResidualBlock(*widths) for widths in pairwise(RESNET12_WIDTHS)), nn.Flatten())


class ResidualBlock(nn.Module):
    """Three convolutions with batch norm, a 1x1 shortcut, leaky ReLU and max-pool."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers.append(nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(channels), nn.LeakyReLU(0.1)]
        self.path = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the side."""
        return F.max_pool2d(F.leaky_relu(self.path(maps) + self.shortcut(maps), 0.1), 2)


def maml_step(experiment: Experiment, split: SplitStore) -> Callable[[], None]:
    """Return a function that takes the next outer step of MAML or CxGrad."""
    learner = AdaptiveLearner(experiment)
    optimizer, steps = torch.optim.Adam(learner.parameters(), lr=1e-3), count()

    def step() -> None:
        batch = drawn_batch(experiment, split, next(steps))
        tasks = zip(batch.support_images, batch.support_labels, batch.query_images, batch.query_labels, strict=True)
        losses = [learner.task_loss(xs / 255, ys, xq / 255, yq) for xs, ys, xq, yq in tasks]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


class AdaptiveLearner(nn.Module):
    """Conv4 with a linear head, adapted by MAML, or by CxGrad with a generator of the norms of its convolutions."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        settings: dict[str, Any] = experiment.learner.settings
        filters = experiment.backbone.settings["filters"]
        features = filters * (experiment.image_size // 16) ** 2
        self.is_cxgrad = experiment.learner.name == "cxgrad"
        self.inner_steps, self.rate = settings["inner_steps"], settings["inner_learning_rate"]
        shapes = [(filters, 3 if i == 0 else filters, 3, 3) for i in range(4)] + [(experiment.recipe.n_way, features)]
        weights = [nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape))) for shape in shapes]
        self.weights = nn.ParameterList([*weights, nn.Parameter(torch.zeros(experiment.recipe.n_way))])
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters, track_running_stats=False) for _ in range(4))
        self.generator = nn.Sequential(nn.Linear(CONTEXT, CONTEXT), nn.ReLU(), nn.Linear(CONTEXT, 4), nn.Softplus())

    def scores(self, images: Tensor, weights: list[Tensor]) -> Tensor:
        """Return the scores of the classes."""
        maps = images
        for weight, norm in zip(weights, self.norms, strict=False):
            maps = F.max_pool2d(F.leaky_relu(norm(F.conv2d(maps, weight, padding=1))), 2)
        return F.linear(maps.flatten(1), weights[-2], weights[-1])

    def rescaled(self, weights: list[Tensor], context: Tensor) -> list[Tensor]:
        """Return the weights with each convolution scaled to the norm that the generator gives."""
        convolutions = [
            gamma / weight.norm() * weight for gamma, weight in zip(self.generator(context), weights, strict=False)
        ]
        return convolutions + weights[4:]

    def task_loss(self, support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> Tensor:
        """Return the loss of the query images after the inner steps, with the graph of them all."""
        weights, context = list(self.weights), torch.zeros(CONTEXT, requires_grad=True)
        if self.is_cxgrad:
            loss = F.cross_entropy(self.scores(support, self.rescaled(weights, context)), labels)
            (gradient,) = torch.autograd.grad(loss, context)
            context = (context - gradient).detach().requires_grad_()
        for _ in range(self.inner_steps):
            used = self.rescaled(weights, context) if self.is_cxgrad else weights
            inputs = [*used, context] if self.is_cxgrad else used
            loss = F.cross_entropy(self.scores(support, used), labels)
            gradients = torch.autograd.grad(loss, inputs, create_graph=True)
            weights = [w - self.rate * g for w, g in zip(used, gradients, strict=False)]
            if self.is_cxgrad:
                context = context - gradients[-1]
        return F.cross_entropy(self.scores(query, weights), query_labels)


def easyfsl_step(experiment: Experiment, split: SplitStore, library: str) -> Callable[[], None]:
    """Return a function that takes the next step of easyfsl's prototypical networks, one episode at a time."""
    from easyfsl.methods import PrototypicalNetworks

    transform, steps = image_transform(experiment), count()
    model = PrototypicalNetworks(conv4(64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        batch = drawn_batch(experiment, split, next(steps))
        optimizer.zero_grad()
        model.process_support_set(transformed(batch.support_images, transform), batch.support_labels[0])
        scores = model(transformed(batch.query_images, transform))
        loss = F.cross_entropy(scores, batch.query_labels[0])
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def library_step(experiment: Experiment, split: SplitStore, library: str) -> Callable[[], None]:
    """Return a function that takes the next outer step of MAML by another library, task by task."""
    filters, size = experiment.backbone.settings["filters"], experiment.image_size
    layers: list[nn.Module] = []
    for i in range(4):
        convolution = nn.Conv2d(3 if i == 0 else filters, filters, 3, padding=1, bias=False)
        norm = nn.BatchNorm2d(filters, track_running_stats=False)
        layers += [convolution, norm, nn.LeakyReLU(0.01), nn.MaxPool2d(2)]
    head = nn.Linear(filters * (size // 16) ** 2, experiment.recipe.n_way)
    network, steps = nn.Sequential(*layers, nn.Flatten(), head), count()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        raw = drawn_batch(experiment, split, next(steps))
        batch = replace(raw, support_images=raw.support_images / 255, query_images=raw.query_images / 255)
        META_STEPS[library](network, batch)
        optimizer.step()

    return step
