"""Cost and accuracy of the heads compared with qpth, which public implementations use.

    python -m benchmarks.heads [--quick]

Times are forward + backward, one thread, all methods interleaved in one process. Every row asserts the accuracy it
reports. Data: "clusters" (few active bounds) and "low rank" (rank 20 plus 5 % noise, rectified, like embeddings of a
trained network: 40 to 80 % of the dual variables are at their bound). Baseline: the head as released, a dense program
in S M variables, solved by qpth in float32 with 15 iterations, and scores through an (S, Q, M) product. In every case
the C library keeps freed memory (`fewshot.training.allocator`), as in the workflow's jobs.
"""

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from benchmarks.measure import interleave, load_average, peak_memory_mib, ratio, table, write_section
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fewshot.heads import build_head
from fewshot.solvers import Problem, crammer_singer
from fewshot.solvers.truncated import by_qpth

Scores = Callable[[Tensor, Tensor, Tensor, int], Tensor]
QUERIES = 6
SIZES = [(8, 5, 1), (8, 5, 5), (1, 5, 5), (8, 5, 15), (8, 5, 30), (4, 20, 5)]
LARGE = [(8, 5, 30), (4, 20, 5)]
FLOAT32_LIMITS = {1600: (1e-6, 5e-6), 16000: (3e-6, 1e-5)}
"""Largest errors of scores and gradients; float32 sums over more features round more."""
ROUNDS = {(8, 5, 15): 3, (8, 5, 30): 1, (4, 20, 5): 1}


def draw(
    size: tuple[int, int, int], n_features: int, kind: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return support, labels, query, query labels of (tasks, ways, shots), float32."""
    n_tasks, n_way, n_shot = size
    generator = np.random.default_rng(seed)
    labels = np.tile(np.arange(n_way), n_shot + QUERIES)
    tasks = []
    for _ in range(n_tasks):
        if kind == "low rank":
            latent = generator.standard_normal((n_way, 20))[labels] + generator.standard_normal((len(labels), 20))
            values = latent @ generator.standard_normal((20, n_features)) / np.sqrt(20)
            values += 0.05 * generator.standard_normal(values.shape)
        else:
            centre = 0.5 * generator.standard_normal(n_features)
            values = (centre + 0.5 * generator.standard_normal((n_way, n_features)))[labels]
            values += 0.9 * generator.standard_normal(values.shape)
        tasks.append(np.maximum(values, 0))
    features = torch.from_numpy(np.stack(tasks)).float()
    targets = torch.from_numpy(labels).expand(n_tasks, -1)
    n_support = n_way * n_shot
    return (
        features[:, :n_support].clone(), targets[:, :n_support].clone(),
        features[:, n_support:].clone(), targets[:, n_support:].clone(),
    )  # fmt: skip


def released_svm(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    alpha = by_qpth(Problem(support @ support.mT, labels, n_way), 15, torch.float32).alpha
    return released_scores(alpha, support, query)


def released_scores(alpha: Tensor, support: Tensor, query: Tensor) -> Tensor:
    similarity = support @ query.mT
    return (alpha.unsqueeze(2) * similarity.unsqueeze(3)).sum(1)


def released_ridge(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """One program per class, with a constraint that is always satisfied, because the solver needs one."""
    from qpth.qp import QPFunction

    n_tasks, n_support, _ = support.shape
    quadratic = (support @ support.mT + 50 * torch.eye(n_support)).repeat_interleave(n_way, 0)
    linear = -2 * one_hot(labels, n_way).to(support.dtype).mT.reshape(-1, n_support)
    constraint = (
        torch.zeros(len(linear), n_support, n_support),
        torch.zeros_like(linear),
        torch.Tensor(),
        torch.Tensor(),
    )
    alpha = QPFunction(verbose=-1)(quadratic, linear, *constraint)
    return released_scores(alpha.view(n_tasks, n_way, n_support).mT, support, query)


def proxsuite_svm(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    from proxsuite.torch.qplayer import QPFunction

    n_tasks, n_support, _ = support.shape
    size, kernel = n_support * n_way, (support @ support.mT).double()
    identity, classes = torch.eye(size, dtype=torch.float64), torch.eye(n_way, dtype=torch.float64)
    quadratic = torch.einsum("tij,kl->tikjl", kernel, classes).reshape(n_tasks, size, size) + identity
    targets = one_hot(labels, n_way).double().reshape(n_tasks, size)
    sums = torch.kron(torch.eye(n_support, dtype=torch.float64), torch.ones(1, n_way, dtype=torch.float64))
    zeros, lower = torch.zeros(n_tasks, n_support, dtype=torch.float64), torch.full_like(targets, -1e20)
    alpha = QPFunction(eps=1e-9)(
        quadratic, -targets, sums.expand(n_tasks, -1, -1), zeros, identity.expand(n_tasks, -1, -1), lower, 0.1 * targets
    )[0]
    return torch.bmm(query, torch.bmm(support.mT, alpha.view(n_tasks, n_support, n_way).to(support.dtype)))


def head_scores(name: str, **settings: str | int) -> Scores:
    head = build_head(name, **settings)
    return lambda support, labels, query, n_way: head(support, labels, query, n_way=n_way)


def head_step(scores: Scores, data: tuple[Tensor, ...], n_way: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that does embeddings -> loss -> gradients and returns scores and support gradient."""
    support, labels, query, query_labels = data
    support, query = (value.clone().requires_grad_() for value in (support, query))

    def step() -> tuple[Tensor, Tensor]:
        support.grad = query.grad = None
        found = scores(support, labels, query, n_way)
        cross_entropy(found.reshape(-1, n_way), query_labels.reshape(-1)).backward()
        return found.detach(), support.grad

    return step


def solver_step(
    solve: Callable[[Tensor], Tensor], kernel: Tensor, weight: Tensor
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that does kernel -> alpha -> gradient of the kernel through autograd."""

    def step() -> tuple[Tensor, Tensor]:
        variable = kernel.detach().requires_grad_()
        alpha = solve(variable)
        alpha.backward(weight)
        return alpha.detach(), variable.grad

    return step


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


def compare(
    steps: dict[str, Callable[[], tuple[Tensor, Tensor]]], exact: tuple[Tensor, Tensor], label: list[str], rounds: int,
    limits: tuple[float, float],
) -> list[list[str]]:  # fmt: skip
    """Time all steps against the first, assert the accuracy of ours, return the rows of the table."""
    found = {}

    def keep(name: str) -> Callable[[], None]:
        def run() -> None:
            found[name] = steps[name]()

        return run

    base, *others = steps
    ours = [name for name in others if name != "proxsuite"]
    if rounds > 1:
        steps[base]()  # the first call of a process loads libraries; too slow to repeat at the large sizes
    times = interleave({name: keep(name) for name in steps}, rounds, dict.fromkeys(ours, 7))
    errors = {name: [relative_error(*pair) for pair in zip(found[name], exact, strict=True)] for name in steps}
    for name in ours:
        within = errors[name][0] <= limits[0] and errors[name][1] <= limits[1]
        assert within, f"{label} {name}: errors {errors[name]}, allowed {limits}"
    return [
        [
            *label,
            name,
            f"{1e3 * median(times[name]):.3g}",
            ratio(times[base], times[name]),
            *map("{:.0e}".format, errors[name]),
        ]
        for name in steps
    ]


def svm_heads(size: tuple[int, int, int], n_features: int, kind: str, rounds: int) -> list[list[str]]:
    data = draw(size, n_features, kind)
    scores = {
        "qpth": released_svm,
        "numba": head_scores("svm", backend="numba"),
        "torch": head_scores("svm", backend="torch"),
    }
    if importlib.util.find_spec("proxsuite") and size not in LARGE:
        scores["proxsuite"] = proxsuite_svm
    double = [value.double() if value.is_floating_point() else value for value in data]
    exact = head_step(scores["numba"], double, size[1])()
    steps = {name: head_step(score, data, size[1]) for name, score in scores.items()}
    return compare(steps, exact, [str(size), kind, str(n_features)], rounds, FLOAT32_LIMITS[n_features])


def solvers(size: tuple[int, int, int], kind: str, rounds: int) -> list[list[str]]:
    support, labels, _, _ = draw(size, 1600, kind)
    kernel = support @ support.mT
    weight = torch.randn(*labels.shape, size[1], generator=torch.Generator().manual_seed(0))

    def exact_by(backend: str) -> Callable[[Tensor], Tensor]:
        return lambda kernel: crammer_singer(kernel, labels, size[1], backend=backend).alpha

    solution = crammer_singer(kernel.double(), labels, size[1])
    assert solution.kkt_residual.max() <= 1e-9, solution.kkt_residual
    exact = solver_step(exact_by("numba"), kernel.double(), weight.double())()
    solve = {
        "qpth": lambda kernel: by_qpth(Problem(kernel, labels, size[1]), 15, torch.float32).alpha,
        "numba": exact_by("numba"),
        "torch": exact_by("torch"),
    }
    steps = {name: solver_step(function, kernel, weight) for name, function in solve.items()}
    return compare(steps, exact, [str(size), kind], rounds, FLOAT32_LIMITS[1600])


def ridge_heads(size: tuple[int, int, int], n_features: int, rounds: int) -> list[list[str]]:
    data = draw(size, n_features, "low rank")
    scores = {"qpth": released_ridge, "Cholesky": head_scores("ridge")}
    double = [value.double() if value.is_floating_point() else value for value in data]
    exact = head_step(head_scores("ridge"), double, size[1])()
    steps = {name: head_step(score, data, size[1]) for name, score in scores.items()}
    return compare(steps, exact, [str(size), str(n_features)], rounds, (1e-5, 1e-5))


def peak_memory(size: tuple[int, int, int]) -> list[str]:
    """Measure each method in its own process, warmed up on a small problem."""
    found = {}
    for name in ("qpth", "numba", "torch"):
        command = [sys.executable, "-m", "benchmarks.heads", "--memory", name, *map(str, size)]
        found[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        str(size),
        *(f"{found[name]:.1f}" for name in found),
        *(f"{found['qpth'] / found[n]:.0f}" for n in ("numba", "torch")),
    ]


def print_peak_memory(name: str, size: tuple[int, int, int]) -> None:
    few = head_scores("svm", solver="qpth", max_iterations=2)  # its peak is in the first iterations
    scores = few if name == "qpth" else head_scores("svm", backend=name)
    head_step(scores, draw((1, size[1], 1), 64, "clusters"), size[1])()
    sys.stdout.write(f"{peak_memory_mib(head_step(scores, draw(size, 1600, 'low rank'), size[1])):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small sizes, a minute; prints only")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print_peak_memory(arguments.memory[0], tuple(map(int, arguments.memory[1:])))
    elif arguments.quick:
        lines = svm_heads((8, 5, 1), 1600, "low rank", 3) + svm_heads((8, 5, 5), 1600, "low rank", 3)
        ridge = ridge_heads((8, 5, 5), 1600, 5)
        print("\n\n".join(paragraphs(lines, solvers((8, 5, 5), "low rank", 3), ridge, [peak_memory((8, 5, 5))])))
    else:
        write_section("heads", "Cost of the heads", measure_all(), ("numpy", "numba", "qpth"))


def measure_all() -> list[str]:
    heads, solver, ridge = [], [], []
    for size in SIZES:
        rounds = ROUNDS.get(size, 5)
        for kind in ["low rank"] if size in LARGE else ["clusters", "low rank"]:
            solver += solvers(size, kind, rounds)
            heads += svm_heads(size, 1600, kind, rounds)
        if size not in LARGE:
            heads += svm_heads(size, 16000, "low rank", rounds)
        ridge += ridge_heads(size, 1600, 5)
    ridge += ridge_heads((8, 5, 5), 16000, 5)
    return paragraphs(heads, solver, ridge, [peak_memory(size) for size in ((8, 5, 5), (8, 5, 15), (4, 20, 5))])


def paragraphs(heads: list, solver: list, ridge: list, memory: list) -> list[str]:
    timing = ["ms", "times faster than qpth"]
    size = "tasks, ways, shots"
    return [
        __doc__.split("\n\n", 2)[2].strip(),
        "CPU time; medians over the rounds, ranges in brackets. Errors are maxima, relative to the largest entry of "
        f"the float64 optimum. {load_average()}",
        "## Solver: kernel to dual variables to gradient of the kernel",
        table([size, "data", "solver", *timing, "error of alpha", "of gradient"], solver),
        "## Whole head: embeddings to loss to gradients",
        table([size, "data", "d", "solver", *timing, "error of scores", "of gradient"], heads),
        "## Ridge head",
        table([size, "d", "solver", *timing, "error of scores", "of gradient"], ridge),
        "## Peak memory of one step above its start, MiB",
        table([size, "qpth", "numba", "torch", "qpth / numba", "qpth / torch"], memory),
    ]


if __name__ == "__main__":
    main()
