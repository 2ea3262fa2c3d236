"""Whole outer steps of training on one core, beside the papers' loops, in every precision, and how near the limit.

    python -m benchmarks.training [--only TEXT] [--rounds N]

Run from the root of the repository; needs qpth and torchvision. With `--only` or `--rounds` the page is printed, but
not written.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import torch
from benchmarks.gpu.families import Scale, random_split
from benchmarks.gpu.timing import count_flop
from benchmarks.measure import machine, table, take_turns, write_section
from benchmarks.originals import easyfsl_step, library_step, maml_step, metaoptnet_step

from fewshot.datasets.store import SplitStore
from fewshot.errors import ParamsError
from fewshot.experiments.build import initial_learner
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.reader import read_params
from fewshot.training.outer_step import OuterStep

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Those that differ on a CPU, with the dtype of most products."""

EPISODIC = {"dataset": "cifar_fs", "recipe": "metaoptnet_cifar_fs"}
ADAPTIVE = {"dataset": "mini_imagenet", "recipe": "maml_1shot"}
STEPS = {
    "conv4 prototype": {**EPISODIC, "backbone": "conv4_64", "learner": "prototype", "n_query": 10, "meta_batch": 1},
    "conv4 ridge": {**EPISODIC, "backbone": "conv4_64", "learner": "ridge", "n_query": 10, "meta_batch": 8},
    "conv4 svm": {**EPISODIC, "backbone": "conv4_64", "learner": "svm", "n_query": 10, "meta_batch": 8},
    "ResNet-12 ridge": {**EPISODIC, "backbone": "resnet12", "learner": "ridge", "n_query": 6, "meta_batch": 1},
    "MAML": {**ADAPTIVE, "backbone": "conv4_maml", "learner": "maml"},
    "CxGrad": {**ADAPTIVE, "backbone": "conv4_maml", "learner": "cxgrad"},
}
SIZES = (32, 84)
ROUNDS = 3
LIBRARIES = {"easyfsl": "conv4 prototype", "higher": "MAML", "learn2learn": "MAML"}
"""The step that each library takes part in, if it is installed."""

PARAGRAPHS = [
    "One outer step with everything it needs: drawing and gathering the episodes, augmentation, forward and backward "
    "pass, update. CPU time, all loops of a step interleaved in one process, medians; per episode. The original is the "
    "paper's program as `benchmarks/originals.py` describes it. Episodic learners: 5 ways, 5 shots, 10 queries per "
    "class (ResNet-12: 6), 64 filters; MAML and CxGrad: 5 ways, 1 shot, 15 queries, 5 inner steps of second order, "
    "48 filters, 4 tasks per step. Images are random; only their size matters.",
    "The share is the arithmetic of convolutions and matrix products, computed directly, divided by time and by the "
    "rate of a large matrix product on the same core in the same precision: no step with direct convolutions can be "
    "faster than the last column says, and fewer operations (Winograd) are the only way beyond.",
]
HEADER = ["step", "loop", "ms per episode", "times as fast as the original", "GFLOP", "share", "at most times faster"]


@dataclass(frozen=True)
class Timed:
    """Processor times of one step, seconds.

    Attributes:
        name: of the step.
        episodes: per step.
        flop: operations of its convolutions and matrix products.
        seconds: by loop; ours by precision.
    """

    name: str
    episodes: int
    flop: int
    seconds: dict[str, float]


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    rates = {name: matmul_rate(dtype) for name, dtype in PRECISIONS.items()}
    timed = []
    for name, experiment in experiments():
        if options.only in name:
            timed.append(measure(name, experiment, options.rounds or ROUNDS))
            print(table(HEADER, rows(timed[-1], rates)), flush=True)
    text = [*PARAGRAPHS, rates_of(rates), table(HEADER, [row for each in timed for row in rows(each, rates)])]
    if options.only or options.rounds:
        print("\n\n".join([*text, machine("numba", "qpth")]))
        return
    write_section("training", "Training steps", text, packages=["torchvision", "numba", "qpth", *installed()])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="only steps with this text in their name")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    return parser.parse_args()


def experiments() -> list[tuple[str, Experiment]]:
    """Return the experiments whose steps are timed, with their names."""
    blocks = [{**row, "image_size": size} for row in STEPS.values() for size in SIZES]
    params = read_params(overrides={"suites": {"training": blocks}, "suite": "training"})
    names = [f"{name}, {size} px" for name in STEPS for size in SIZES]
    return list(zip(names, suite_experiments(params, "training"), strict=True))


def measure(name: str, experiment: Experiment, rounds: int) -> Timed:
    """Time our outer step in every precision, the paper's loop, and those of other libraries."""
    split = random_split("train", experiment.image_size, 20, 60)
    rivals: dict[str, Callable[[], object]] = {}
    is_adaptive = experiment.backbone.name == "conv4_maml"
    rivals["original"] = (maml_step if is_adaptive else metaoptnet_step)(experiment, split)
    for library in installed():
        if name.startswith(LIBRARIES[library]):
            build = easyfsl_step if library == "easyfsl" else library_step
            rivals[library] = build(experiment, split, library)
    for precision in PRECISIONS:
        changed = replace(experiment, recipe=experiment.recipe.model_copy(update={"precision": precision}))
        try:
            rivals[precision] = our_step(changed, split)
        except ParamsError:
            continue  # this learner computes in float32 only
    flop = count_flop(Scale(torch.device("cpu")), experiment, split)
    return Timed(name, experiment.recipe.meta_batch, flop, take_turns(rivals, rounds))


def our_step(experiment: Experiment, split: SplitStore) -> Callable[[], object]:
    """Return a function that takes the next outer step as training does."""
    outer_step, steps = OuterStep(experiment, split, initial_learner(experiment)), count()
    return lambda: outer_step.take(next(steps))


def installed() -> list[str]:
    """Return the libraries to compare with that are installed."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name)]


def matmul_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """Return the operations per second of a large matrix product, the best of several."""
    left, right, seconds = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype), []
    for _ in range(6):
        start = time.process_time()
        left @ right
        seconds.append(time.process_time() - start)
    return 2 * side**3 / min(seconds)


def rates_of(rates: dict[str, float]) -> str:
    """Return the sentence about the core."""
    listed = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items())
    missing = ", ".join(name for name in LIBRARIES if name not in installed()) or "none"
    return f"Matrix products on this core: {listed}. Not installed and therefore not measured: {missing}."


def rows(timed: Timed, rates: dict[str, float]) -> list[list[str]]:
    """Return the rows of one step."""
    found = []
    for loop, seconds in timed.seconds.items():
        ratio = f"{timed.seconds['original'] / seconds:.2f}"
        share = timed.flop / seconds / rates.get(loop, rates["float32"])
        is_ours = loop in PRECISIONS
        name = f"ours, {loop}" if is_ours else loop
        limits = [f"{timed.flop / timed.episodes / 1e9:.3g}", f"{share:.0%}", f"{1 / share:.1f}" if is_ours else ""]
        found.append([timed.name, name, f"{1e3 * seconds / timed.episodes:.3g}", ratio, *limits])
    return found


if __name__ == "__main__":
    main()
