"""Figures of a learner's internals: inner-loop gradients, gamma, accuracy by step, solver certificates, embeddings.

Each is made from arrays stored by the evaluation, or columns of the training history, and omitted if there are none;
`adaptation_drawings.py` draws it.
Shapes: T episodes, K inner steps, E epochs, L layers (the stages of the backbone, then the head).
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fewshot.datasets.store import is_store, open_store
from fewshot.files import read_npz
from fewshot.report import stats
from fewshot.report.adaptation_drawings import (
    ByLayer,
    EmbeddingMap,
    draw_accuracy_by_step,
    draw_by_layer,
    draw_embedding_map,
    draw_residuals,
    draw_similarity,
)
from fewshot.report.contents import Contents
from fewshot.report.curves import read_history
from fewshot.report.inputs import ReportEntry
from fewshot.report.measure import Run
from fewshot.report.pictures import Picture
from fewshot.training.history import GRADIENT_NORM

MAX_MAPPED_CLASSES = 7

NamedArrays = list[tuple[str, np.ndarray]]  # name in the legend, values


def adaptation_pictures(contents: Contents) -> Iterator[Picture]:
    """Yield every figure of this module that the stored arrays allow; the first seed represents its group."""
    yield from training_gradient_norms(contents)
    for target, runs in _first_seeds(contents).items():
        stored = {_legend_name(contents, run.entry): _stored_arrays(run.entry) for run in runs}
        for array, picture in PICTURES.items():
            named = [(name, arrays[array]) for name, arrays in stored.items() if array in arrays]
            named = [(name, values) for name, values in named if not np.isnan(values).all()]
            if named:
                yield picture(named, target)
        yield from certificates(stored, target)
        for run in runs:
            values = stored[_legend_name(contents, run.entry)]
            if "embedding_map/points" in values:
                yield embedding_map(run, values, contents.labels[run.entry.group])


def _first_seeds(contents: Contents) -> dict[str, list[Run]]:
    """Return target -> the first run of each group."""
    found: dict[str, dict[str, Run]] = {}
    for run in contents.runs:
        found.setdefault(run.entry.target, {}).setdefault(run.entry.group, run)
    return {target: list(groups.values()) for target, groups in found.items()}


def _legend_name(contents: Contents, entry: ReportEntry) -> str:
    where = "" if entry.dataset == entry.target else f", from {entry.dataset}"
    return f"{contents.labels[entry.group]}, {entry.backbone}{where}"


def _stored_arrays(entry: ReportEntry) -> dict[str, np.ndarray]:
    """Return the arrays of an evaluation that this module shows."""
    shown = ("diagnostics/", "certificate/", "embedding_map/")
    return {name: values for name, values in read_npz(entry.arrays).items() if name.startswith(shown)}


def training_gradient_norms(contents: Contents) -> Iterator[Picture]:
    """Yield the gradient norm of the support loss by layer and epoch, one figure per data set."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for entry in contents.trainings:
        norms = _recorded_norms(read_history(entry))
        if norms is not None:
            found.setdefault(entry.dataset, {}).setdefault(_legend_name(contents, entry), norms)
    for dataset, by_learner in found.items():
        named = [(name, norms[None]) for name, norms in by_learner.items()]
        yield Picture(
            f"training_gradient_norm-{dataset}",
            "Inner loop",
            f"Norm of the inner-loop gradient of each layer by epoch of training, on {dataset}: mean over the inner "
            "steps, median over validation episodes. Layers that are not adapted have no line.",
            draw_by_layer,
            ByLayer("gradient norm", "log", tuple(named), with_head=True, over="epoch"),
        )


def _recorded_norms(history: list[dict[str, str]]) -> np.ndarray | None:
    """Return the columns of gradient norms of a training history, (E, L), nan where a layer is not adapted."""
    columns = [name for name in (history or [{}])[0] if name.startswith(GRADIENT_NORM)]
    if not columns:
        return None
    return np.array([[float(row[name] or "nan") for name in columns] for row in history])


def gradient_norm(named: NamedArrays, target: str) -> Picture:
    """Return the gradient norm of the support loss, (T, K, L), by layer and inner step."""
    return Picture(
        f"gradient_norm-{target}",
        "Inner loop",
        f"Norm of the inner-loop gradient of each layer by inner step, on {target}: median and quartiles over test "
        "episodes. Layers that are not adapted have no line.",
        draw_by_layer,
        ByLayer("gradient norm", "log", tuple(named), with_head=True),
    )


def gamma(named: NamedArrays, target: str) -> Picture:
    """Return CxGrad's gamma, (T, K, L - 1), the norm to which each convolution is scaled before an inner step."""
    return Picture(
        f"gamma-{target}",
        "Inner loop",
        f"CxGrad's gamma of each convolution by inner step, on {target}: median and quartiles over test episodes. The "
        "gradient of a convolution grows as its gamma shrinks.",
        draw_by_layer,
        ByLayer("gamma", "linear", tuple(named), with_head=False),
    )


def query_accuracy(named: NamedArrays, target: str) -> Picture:
    """Return the query accuracy, (T, K + 1), before adaptation and after each inner step."""
    estimates = [(name, [stats.over_episodes(column) for column in values.T]) for name, values in named]
    return Picture(
        f"accuracy_by_step-{target}",
        "Inner loop",
        f"Query accuracy before adaptation and after each inner step, on {target}, with 95 % intervals over "
        "the diagnosed test episodes.",
        draw_accuracy_by_step,
        tuple(
            (name, tuple(100 * found.mean for found in steps), tuple(100 * found.ci95 for found in steps))
            for name, steps in estimates
        ),
    )


def feature_similarity(named: NamedArrays, target: str) -> Picture:
    """Return the linear CKA, (T, L - 1), between each stage's features before and after adaptation."""
    return Picture(
        f"feature_similarity-{target}",
        "Inner loop",
        f"Similarity (linear CKA) of each stage's query features before and after adaptation, on {target}: median and "
        "quartiles over test episodes. At 1 the adaptation left the features of a stage unchanged.",
        draw_similarity,
        tuple(named),
    )


PICTURES: dict[str, Callable[[NamedArrays, str], Picture]] = {
    "diagnostics/gradient_norm": gradient_norm,
    "diagnostics/gamma": gamma,
    "diagnostics/query_accuracy": query_accuracy,
    "diagnostics/feature_similarity": feature_similarity,
}


def certificates(stored: Mapping[str, Mapping[str, np.ndarray]], target: str) -> Iterator[Picture]:
    """Yield the distribution of the solvers' KKT residuals over the test episodes, if any solver reported them."""
    ending = "/kkt_residual"
    named = [
        (f"{name}, {array.split('/')[1]}", arrays[array])
        for name, arrays in stored.items()
        for array in sorted(arrays)
        if array.startswith("certificate/") and array.endswith(ending)
    ]
    if named:
        yield Picture(
            f"certificates-{target}",
            "Solver certificates",
            f"Accuracy of the solution of each test episode's convex problem, on {target}: fraction of the episodes "
            "whose relative KKT residual, that of the optimality conditions, is at most the value on the axis.",
            draw_residuals,
            tuple(named),
        )


def embedding_map(run: Run, arrays: Mapping[str, np.ndarray], label: str) -> Picture:
    """Return the arrays computed by `fewshot.evaluation.embedding_map` as a map, with the names of its classes."""
    points, labels, entry = arrays["embedding_map/points"], arrays["embedding_map/labels"], run.entry
    shown = np.unique(labels)[:MAX_MAPPED_CLASSES].tolist()
    names = _class_names(run)
    classes = tuple((number, names[number] if number < len(names) else f"class {number}") for number in shown)
    explained = tuple(arrays.get("embedding_map/explained", np.empty(0)).tolist())
    return Picture(
        f"embedding-{entry.group}-{entry.target}",
        "Embedding map",
        f"{entry.experiment}: embeddings of test images of {entry.target} in the plane of their two main axes.",
        draw_embedding_map,
        EmbeddingMap(f"{label}, {entry.backbone}", points, labels, classes, explained),
    )


def _class_names(run: Run) -> tuple[str, ...]:
    """Return the names of the tested classes; () if the images are not on this machine."""
    folder = run.entry.store_dir
    return open_store(folder).split(run.protocol["split"]).class_names if is_store(folder) else ()
