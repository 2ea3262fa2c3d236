"""The forms of ResNet-12's 3x3 convolutions, layer by layer and in a training step, on one core.

Run from the root of the repository: python -m benchmarks.convolutions
"""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.measure import interleave, ratio, table, take_turns, write_section
from torch import Tensor

from fewshot.backbones.columns import convolve_columns
from fewshot.backbones.convolution import form_of
from fewshot.backbones.winograd import convolve_winograd
from fewshot.episodes import EpisodeBatch
from fewshot.episodes.minibatch import ImageBatch
from fewshot.learners import Learner, LearnerContext, build_learner

LAYERS = [  # images, input and output channels, side
    (120, 64, 64, 32),  # 32 pixels, queries of a meta-batch of 4
    (120, 64, 160, 16),
    (120, 160, 160, 16),
    (120, 160, 320, 8),
    (120, 320, 320, 8),
    (120, 640, 640, 4),
    (64, 640, 640, 4),  # a minibatch
    (24, 640, 640, 4),
    (1, 640, 640, 4),
    (25, 160, 160, 42),  # 84 pixels
    (25, 320, 320, 21),
    (25, 640, 640, 10),
    (64, 640, 640, 5),
    (64, 640, 640, 2),
]
FORMS = {torch.float32: ("winograd", convolve_winograd), torch.bfloat16: ("columns", convolve_columns)}
N_WAY, N_SHOT, N_QUERY, META_BATCH, BATCH_SIZE, N_CLASSES, SIZE = 5, 5, 6, 4, 64, 64, 32
ROUNDS, STEP_ROUNDS, WARM_UP = 3, 3, 3


def main() -> None:
    torch.set_num_threads(1)
    steps = [
        measure_step(name, precision)
        for name in ("ridge, meta-batch 4", "classifier, 64 images")
        for precision in ("float32", "bfloat16")
    ]
    layers = [measure_layer(dtype, *layer) for dtype in FORMS for layer in LAYERS]
    write_section(
        "convolutions",
        "Convolutions of ResNet-12",
        [
            "In float32 on a CPU, ResNet-12 takes Winograd's F(4 x 4, 3 x 3) for convolutions of many channels; in "
            "bfloat16, one matrix product with the columns of the maps (im2col) where the maps are small. The rule "
            "is in `fewshot/backbones/convolution.py`: it depends on sizes and precision, not on the machine. "
            "Everywhere else, and always with `convolutions: direct` of the backbone, the convolution is torch's "
            "(oneDNN). DropBlock, batch norm and everything else are the same in both.",
            "CPU time, interleaved: torch's for forward and backward, and the ratios to it; above 1 is faster. Errors "
            "are those of output, gradient of the maps and gradient of the weights, relative to float64 in the norm: "
            "torch's, and the form's as a ratio to torch's.",
            table(
                [
                    "precision",
                    "images, channels, side",
                    "form",
                    "taken",
                    "torch, ms",
                    "forward",
                    "forward and backward",
                    "torch's errors",
                    "errors, ratio",
                ],
                layers,
            ),
            f"Training steps at {SIZE} pixels (loss, gradients and update; DropBlock on), `by_size` against `direct`: "
            f"ridge with {N_WAY} ways, {N_SHOT} shots and {N_QUERY} queries per class, and the classifier.",
            table(["step", "precision", "direct, ms", "by_size, ms", "ratio"], steps),
        ],
        packages=["numba"],
    )


def measure_layer(dtype: torch.dtype, images: int, channels: int, filters: int, side: int) -> list[str]:
    """Return the row of one convolution."""
    name, form = FORMS[dtype]
    maps, weight, cotangent = draw(dtype, images, channels, filters, side)
    seconds = take_turns(
        {
            "forward, torch": lambda: direct(maps.detach(), weight.detach()),
            "forward": lambda: form(maps.detach(), weight.detach()),
            "both, torch": lambda: value_and_gradients(direct, maps, weight, cotangent),
            "both": lambda: value_and_gradients(form, maps, weight, cotangent),
        },
        ROUNDS,
    )
    exact = value_and_gradients(direct, maps.double(), weight.double(), cotangent.double())
    plain = errors(value_and_gradients(direct, maps, weight, cotangent), exact)
    ours = errors(value_and_gradients(form, maps, weight, cotangent), exact)
    return [
        str(dtype).removeprefix("torch."),
        f"{images}, {channels} to {filters}, {side}",
        name,
        "yes" if form_of(maps, weight) == name else "no",
        f"{seconds['both, torch'] * 1e3:.1f}",
        f"{seconds['forward, torch'] / seconds['forward']:.2f}",
        f"{seconds['both, torch'] / seconds['both']:.2f}",
        ", ".join(f"{error:.1e}" for error in plain),
        ", ".join(f"{mine / error:.1f}" for mine, error in zip(ours, plain, strict=True)),
    ]


def draw(dtype: torch.dtype, images: int, channels: int, filters: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations, weights and the cotangent of the output, channels last."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator)
        return values.to(dtype).contiguous(memory_format=torch.channels_last)

    maps = F.leaky_relu(normal(images, channels, side, side), 0.1)
    weight = normal(filters, channels, 3, 3) * (2 / (9 * filters)) ** 0.5
    return maps.requires_grad_(), weight.requires_grad_(), normal(images, filters, side, side)


def direct(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(maps, weight, padding=1)


def value_and_gradients(
    form: Callable[[Tensor, Tensor], Tensor], maps: Tensor, weight: Tensor, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    out = form(maps, weight)
    return out.detach(), *torch.autograd.grad(out, (maps, weight), cotangent)


def errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)]


def measure_step(name: str, precision: str) -> list[str]:
    """Return the row of one training step."""
    steps = {convolutions: training_step(name, precision, convolutions) for convolutions in ("direct", "by_size")}
    for step in steps.values():
        for _ in range(WARM_UP):  # until the allocator holds the memory of a step
            step()
    seconds = interleave(steps, STEP_ROUNDS, {})
    before, after = (statistics.median(seconds[convolutions]) * 1e3 for convolutions in steps)
    return [name, precision, f"{before:.0f}", f"{after:.0f}", ratio(seconds["direct"], seconds["by_size"])]


def training_step(name: str, precision: str, convolutions: str) -> Callable[[], None]:
    torch.manual_seed(0)
    learner = build_learner(
        name.partition(",")[0],
        backbone="resnet12",
        backbone_settings={"convolutions": convolutions},
        context=LearnerContext(n_way=N_WAY, n_classes=N_CLASSES, image_size=SIZE, precision=precision),
    )
    learner.train()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batch = draw_batch(learner)

    def step() -> None:
        optimizer.zero_grad()
        learner.loss(batch, 0).loss.backward()
        optimizer.step()

    return step


def draw_batch(learner: Learner) -> EpisodeBatch | ImageBatch:
    generator = torch.Generator().manual_seed(1)

    def images(*counts: int) -> Tensor:
        return torch.randn(*counts, 3, SIZE, SIZE, generator=generator)

    if hasattr(learner, "classes"):
        return ImageBatch(images(BATCH_SIZE), torch.arange(BATCH_SIZE) % N_CLASSES, torch.arange(BATCH_SIZE))
    labels = torch.arange(N_WAY)
    return EpisodeBatch(
        images(META_BATCH, N_WAY * N_SHOT),
        labels.repeat_interleave(N_SHOT).expand(META_BATCH, -1),
        images(META_BATCH, N_WAY * N_QUERY),
        labels.repeat_interleave(N_QUERY).expand(META_BATCH, -1),
        torch.arange(META_BATCH),
        N_WAY,
    )


if __name__ == "__main__":
    main()
