"""A second-order MAML outer step against the plain form and the loops of other libraries, on one core.

Run from the root of the repository: python -m benchmarks.inner_loop
`higher` and `learn2learn` are included if they are installed; the project does not depend on them.
"""

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.measure import table, take_turns, write_section
from torch import Tensor, nn

from fewshot.backbones import Conv4MAML
from fewshot.episodes import EpisodeBatch
from fewshot.learners import MAML, LearnerContext

N_WAY, N_SHOT, N_QUERY, INNER_STEPS, INNER_RATE, META_BATCH = 5, 1, 15, 5, 0.01, 4
NETWORKS = [(32, 32, 5), (48, 84, 2)]  # filters, pixels, rounds
PLAIN = "plain: all graphs kept"


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for network in NETWORKS for row in measure(*network)]
    write_section(
        "inner_loop",
        "Inner loop",
        [
            f"One outer step of second-order MAML on conv4_maml: {META_BATCH} tasks of {N_WAY} ways, {N_SHOT} shot, "
            f"{N_QUERY} queries per class, {INNER_STEPS} inner steps, float32. The plain form runs convolution, batch "
            "norm, leaky ReLU and max-pool in sequence and keeps the graphs of all tasks for a single backward pass, "
            "as the released programs do. Ours differentiates as many tasks at once as the caches serve, and computes "
            "each stage by one function that pools before batch norm and activation, with hand-written first and "
            "second derivatives (`fewshot/backbones/pooled_stage.py`).",
            "CPU time, interleaved; memory is the peak total size of live tensors. In the same run, the gradients of "
            "both are asserted to agree to 1e-10 in float64. "
            f"Not installed and therefore not measured: {', '.join(missing()) or 'none'}.",
            table(["filters, pixels", "loop", "tasks per second, ratio to plain", "peak memory, ratio to plain"], rows),
        ],
        packages=[name for name in ("numba", "higher", "learn2learn") if importlib.util.find_spec(name)],
    )


def measure(filters: int, size: int, rounds: int) -> list[list[str]]:
    """Return the rows of one network."""
    assert_equal_gradients(filters)
    batch = draw_batch(META_BATCH, size, torch.float32)
    rivals = build_rivals(filters, size, batch)
    seconds = take_turns(rivals, rounds)
    memory = {name: peak_tensor_mib(rival) for name, rival in rivals.items()}
    return [
        [
            f"{filters}, {size}",
            name,
            f"{META_BATCH / seconds[name]:.3g}, {seconds[PLAIN] / seconds[name]:.2f}",
            f"{memory[name]:.0f} MiB, {memory[name] / memory[PLAIN]:.2f}",
        ]
        for name in rivals
    ]


def build_rivals(filters: int, size: int, batch: EpisodeBatch) -> dict[str, Callable[[], object]]:
    """Return the meta-steps to compare; each ends with gradients in place."""
    learner, recomputing = build_maml(filters, size), build_maml(filters, size, checkpoint_inner_steps=True)
    rivals: dict[str, Callable[[], object]] = {
        PLAIN: lambda: plain_meta_step(learner, batch),
        "ours": lambda: our_meta_step(learner, batch),
        "ours, inner steps recomputed": lambda: our_meta_step(recomputing, batch),
    }
    if importlib.util.find_spec("higher"):
        network = sequential(learner)
        rivals["higher"] = lambda: higher_meta_step(network, batch)
    if importlib.util.find_spec("learn2learn"):
        wrapped = sequential(learner)
        rivals["learn2learn"] = lambda: learn2learn_meta_step(wrapped, batch)
    return rivals


def peak_tensor_mib(function: Callable[[], object]) -> float:
    """Return the peak of the tensor memory that a call allocates, MiB."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def missing() -> list[str]:
    return [name for name in ("higher", "learn2learn") if not importlib.util.find_spec(name)]


def build_maml(filters: int, size: int, **settings: object) -> MAML:
    torch.manual_seed(0)
    return MAML(
        Conv4MAML(size, filters, running_statistics=False),
        LearnerContext(n_way=N_WAY, image_size=size),
        inner_steps=INNER_STEPS,
        inner_learning_rate=INNER_RATE,
        **settings,
    )


def our_meta_step(learner: MAML, batch: EpisodeBatch) -> None:
    learner.zero_grad()
    for chunk in batch.chunks(learner.episodes_per_backward or len(batch)):
        (learner.loss(chunk, 0).loss * (len(chunk) / len(batch))).backward()


def plain_meta_step(learner: MAML, batch: EpisodeBatch) -> None:
    """One backward pass for all tasks; the learner's network, written as in the released programs."""
    learner.zero_grad()
    losses = [plain_task_loss(learner, *task) for task in tasks(batch)]
    torch.stack(losses).mean().backward()


def plain_task_loss(learner: MAML, support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> Tensor:
    stages, head = learner.network.backbone.stages, learner.network.head

    def scores(images: Tensor, weights: list[Tensor]) -> Tensor:
        maps = images
        for weight, stage in zip(weights, stages, strict=False):
            maps = F.conv2d(maps, weight, padding=1)
            maps = F.batch_norm(maps, None, None, stage.norm.weight, stage.norm.bias, training=True)
            maps = F.max_pool2d(F.leaky_relu(maps, 0.01), 2)
        return F.linear(maps.flatten(1), weights[-2], weights[-1])

    weights = [stage.convolution.weight for stage in stages] + [head.weight, head.bias]
    for _ in range(INNER_STEPS):
        loss = F.cross_entropy(scores(support, weights), labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [weight - INNER_RATE * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    return F.cross_entropy(scores(query, weights), query_labels)


def sequential(learner: MAML) -> nn.Module:
    """Return the network from PyTorch's modules, batch norm without running statistics, for the other libraries."""
    layers: list[nn.Module] = []
    for stage in learner.network.backbone.stages:
        filters, channels = stage.convolution.weight.shape[:2]
        convolution = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        norm = nn.BatchNorm2d(filters, track_running_stats=False)
        layers += [convolution, norm, nn.LeakyReLU(0.01), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(learner.network.head.in_features, N_WAY))


def higher_meta_step(network: nn.Module, batch: EpisodeBatch) -> None:
    """Task by task, as its documentation does; adapts batch-norm weights too."""
    import higher

    network.zero_grad()
    optimizer = torch.optim.SGD(network.parameters(), lr=INNER_RATE)
    for support, labels, query, query_labels in tasks(batch):
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, steps):
            for _ in range(INNER_STEPS):
                steps.step(F.cross_entropy(adapted(support), labels))
            (F.cross_entropy(adapted(query), query_labels) / len(batch)).backward()


def learn2learn_meta_step(network: nn.Module, batch: EpisodeBatch) -> None:
    """Task by task, as its documentation does; adapts batch-norm weights too."""
    import learn2learn

    network.zero_grad()
    maml = learn2learn.algorithms.MAML(network, lr=INNER_RATE)
    for support, labels, query, query_labels in tasks(batch):
        adapted = maml.clone()
        for _ in range(INNER_STEPS):
            adapted.adapt(F.cross_entropy(adapted(support), labels))
        (F.cross_entropy(adapted(query), query_labels) / len(batch)).backward()


def tasks(batch: EpisodeBatch) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    tensors = (batch.support_images, batch.support_labels, batch.query_images, batch.query_labels)
    return list(zip(*tensors, strict=True))


def draw_batch(n_tasks: int, size: int, dtype: torch.dtype) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(N_WAY)

    def images(per_class: int) -> Tensor:
        return torch.randn(n_tasks, N_WAY * per_class, 3, size, size, generator=generator, dtype=dtype)

    return EpisodeBatch(
        images(N_SHOT),
        labels.repeat_interleave(N_SHOT).expand(n_tasks, -1),
        images(N_QUERY),
        labels.repeat_interleave(N_QUERY).expand(n_tasks, -1),
        torch.arange(n_tasks),
        N_WAY,
    )


def assert_equal_gradients(filters: int) -> None:
    """Compare ours with the plain form in float64, two tasks of 32 pixels."""
    learner, batch = build_maml(filters, 32).double(), draw_batch(2, 32, torch.float64)
    found = []
    for meta_step in (plain_meta_step, our_meta_step):
        meta_step(learner, batch)
        found.append([parameter.grad.clone() for parameter in learner.parameters()])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


if __name__ == "__main__":
    main()
