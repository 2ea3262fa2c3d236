"""Figures of a learner's internals: inner-loop gradients, gamma, accuracy by step, solver certificates, embeddings.

Each is drawn from arrays stored by the evaluation, and omitted if there are none. Shapes: T episodes, K inner steps, L
layers (the stages of the backbone, then the head).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fewshot.files import read_npz
from fewshot.report import stats
from fewshot.report.contents import Contents
from fewshot.report.inputs import ReportEntry
from fewshot.report.style import COLORS, Picture, legend_at_the_side, line_style, wrapped

MAX_MAPPED_CLASSES = 7

NamedArrays = list[tuple[str, np.ndarray]]  # name in the legend, values


def adaptation_pictures(contents: Contents) -> Iterator[Picture]:
    """Yield every figure of this module that the stored arrays allow; the first seed represents its group."""
    for target, entries in _first_seeds(contents).items():
        stored = {_legend_name(contents, entry): _stored_arrays(entry) for entry in entries}
        for array, draw in DRAWINGS.items():
            named = [(name, arrays[array]) for name, arrays in stored.items() if array in arrays]
            named = [(name, values) for name, values in named if not np.isnan(values).all()]
            if named:
                yield draw(named, target)
        yield from certificates(stored, target)
        for entry in entries:
            values = stored[_legend_name(contents, entry)]
            if "embedding_map/points" in values:
                yield embedding_map(entry, values, contents.labels[entry.group])


def _first_seeds(contents: Contents) -> dict[str, list[ReportEntry]]:
    """Return target -> the first finished entry of each group."""
    found: dict[str, dict[str, ReportEntry]] = {}
    for entry in contents.finished:
        found.setdefault(entry.target, {}).setdefault(entry.group, entry)
    return {target: list(groups.values()) for target, groups in found.items()}


def _legend_name(contents: Contents, entry: ReportEntry) -> str:
    where = "" if entry.dataset == entry.target else f", from {entry.dataset}"
    return wrapped(f"{contents.labels[entry.group]}, {entry.backbone}{where}")


def _stored_arrays(entry: ReportEntry) -> dict[str, np.ndarray]:
    """Return the arrays of an evaluation that this module draws."""
    drawn = ("diagnostics/", "certificate/", "embedding_map/")
    return {name: values for name, values in read_npz(entry.arrays).items() if name.startswith(drawn)}


def _panels(count: int, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(7.5, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _band(axis: Axes, x: Sequence[float], values: np.ndarray, label: str, index: int) -> None:
    """Draw the median and quartiles over episodes of values, (T, len(x))."""
    known = ~np.isnan(values).all(axis=0)
    if not known.any():
        return
    low, middle, high = np.nanquantile(values[:, known], (0.25, 0.5, 0.75), axis=0)
    style = line_style(index)
    axis.plot(np.asarray(x)[known], middle, label=label, markersize=4, **style)
    axis.fill_between(np.asarray(x)[known], low, high, color=style["color"], alpha=0.15, linewidth=0)


def _by_layer(named: NamedArrays, layers: Callable[[int], list[str]], *, scale: str, ylabel: str) -> Figure:
    """Draw one panel per learner with one line per layer over the inner steps."""
    figure, axes = _panels(len(named))
    for axis, (name, values) in zip(axes, named, strict=True):
        for layer, label in enumerate(layers(values.shape[2])):
            _band(axis, range(1, values.shape[1] + 1), values[:, :, layer], label, layer)
        axis.set(title=name, xlabel="inner step", yscale=scale)
        axis.set_xticks(range(1, max(v.shape[1] for _, v in named) + 1))
        axis.tick_params(labelbottom=True)
    axes[0].set_ylabel(ylabel)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def gradient_norm(named: NamedArrays, target: str) -> Picture:
    """Draw the gradient norm of the support loss, (T, K, L), by layer and inner step."""
    figure = _by_layer(
        named, lambda count: [*(f"conv {i}" for i in range(1, count)), "head"], scale="log", ylabel="gradient norm"
    )
    return Picture(
        f"gradient_norm-{target}",
        "Inner loop",
        f"Norm of the inner-loop gradient of each layer by inner step, on {target}: median and quartiles over test "
        "episodes. Layers that are not adapted have no line.",
        figure,
    )


def gamma(named: NamedArrays, target: str) -> Picture:
    """Draw CxGrad's gamma, (T, K, L - 1), the norm to which each convolution is scaled before an inner step."""
    figure = _by_layer(named, lambda count: [f"conv {i + 1}" for i in range(count)], scale="linear", ylabel="gamma")
    return Picture(
        f"gamma-{target}",
        "Inner loop",
        f"CxGrad's gamma of each convolution by inner step, on {target}: median and quartiles over test episodes. The "
        "gradient of a convolution grows as its gamma shrinks.",
        figure,
    )


def query_accuracy(named: NamedArrays, target: str) -> Picture:
    """Draw the query accuracy, (T, K + 1), before adaptation and after each inner step."""
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axis = figure.subplots()
    for index, (name, values) in enumerate(named):
        estimates = [stats.over_episodes(column) for column in values.T]
        mean, width = ([100 * getattr(e, part) for e in estimates] for part in ("mean", "ci95"))
        axis.errorbar(range(len(mean)), mean, yerr=width, ms=4, capsize=2, label=name, **line_style(index))
    axis.set(xlabel="inner steps taken", ylabel="query accuracy (%)")
    axis.set_xticks(range(max(values.shape[1] for _, values in named)))
    legend_at_the_side(axis)
    return Picture(
        f"accuracy_by_step-{target}",
        "Inner loop",
        f"Query accuracy before adaptation and after each inner step, on {target}, with 95 % intervals over "
        "the diagnosed test episodes.",
        figure,
    )


def feature_similarity(named: NamedArrays, target: str) -> Picture:
    """Draw the linear CKA, (T, L - 1), between each stage's features before and after adaptation."""
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axis = figure.subplots()
    for index, (name, values) in enumerate(named):
        _band(axis, range(1, values.shape[1] + 1), values, name, index)
    axis.set(xlabel="stage of the backbone", ylabel="linear CKA")
    axis.set_xticks(range(1, max(values.shape[1] for _, values in named) + 1))
    legend_at_the_side(axis)
    return Picture(
        f"feature_similarity-{target}",
        "Inner loop",
        f"Similarity (linear CKA) of each stage's query features before and after adaptation, on {target}: median and "
        "quartiles over test episodes. At 1 the adaptation left the features of a stage unchanged.",
        figure,
    )


DRAWINGS: dict[str, Callable[[NamedArrays, str], Picture]] = {
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
    if not named:
        return
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axis = figure.subplots()
    for index, (name, values) in enumerate(named):
        residuals = np.sort(np.maximum(values, 1e-17))
        style: dict[str, Any] = {**line_style(index), "marker": ""}
        axis.step(residuals, np.arange(1, len(residuals) + 1) / len(residuals), where="post", label=name, **style)
    axis.set(xscale="log", xlabel="relative KKT residual", ylabel="fraction of episodes at or below")
    legend_at_the_side(axis)
    yield Picture(
        f"certificates-{target}",
        "Solver certificates",
        f"Accuracy of the solution of each test episode's convex problem, on {target}: fraction of the episodes whose "
        "relative residual of the optimality (KKT) conditions is at most the value on the axis.",
        figure,
    )


def embedding_map(entry: ReportEntry, arrays: Mapping[str, np.ndarray], label: str) -> Picture:
    """Draw the arrays computed by `fewshot.evaluation.embedding_map`."""
    points, labels = arrays["embedding_map/points"], arrays["embedding_map/labels"]
    figure = Figure(figsize=(5.5, 5.0), layout="constrained")
    axis = figure.subplots()
    for index, label_value in enumerate(np.unique(labels)[:MAX_MAPPED_CLASSES]):
        members = points[labels == label_value]
        style = line_style(index)
        axis.scatter(members[:, 0], members[:, 1], s=14, color=COLORS[index], marker=style["marker"], alpha=0.8, lw=0)
    axis.set(title=f"{label}, {entry.backbone}", xticks=[], yticks=[])
    if "embedding_map/explained" in arrays:
        first, second = 100 * arrays["embedding_map/explained"]
        axis.set(xlabel=f"first axis, {first:.0f} % of the variance", ylabel=f"second axis, {second:.0f} %")
    return Picture(
        f"embedding-{entry.group}-{entry.target}",
        "Embedding map",
        f"{entry.experiment}: embeddings of test images of {entry.target} in the plane; one colour and marker per "
        "class.",
        figure,
    )
