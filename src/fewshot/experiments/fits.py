"""Whether a prepared data set is large enough for the episodes that experiments draw from it."""

from collections.abc import Iterable, Iterator

from fewshot.datasets.store import SplitStore, Store
from fewshot.errors import DataError, quoted, quoted_key
from fewshot.experiments.experiment import Draw

CLASSES_SHOWN = 20


def check_draws(name: str, store: Store, draws: Iterable[Draw]) -> None:
    """Refuse a data set with too few classes, or classes with too few images, for the episodes drawn from it.

    Args:
        name: label of the data set.
        store: the prepared data.
        draws: what experiments draw from it.

    Raises:
        DataError: with a line for each split and use that names the classes and the settings to lower.
    """
    problems = list(dict.fromkeys(problem for draw in draws for problem in _too_small(store.split(draw.split), draw)))
    if problems:
        raise DataError("\n".join(f"{name}: {problem}" for problem in problems))


def _too_small(split: SplitStore, draw: Draw) -> Iterator[str]:
    """Yield what a split lacks for one kind of episode."""
    form, classes = draw.form, dict(zip(split.class_names, split.class_sizes.tolist(), strict=True))
    if form.n_way > len(classes):
        yield (
            f"{form.n_way} ways requested for {draw.use}, but split {quoted(draw.split)} has {len(classes)} classes; "
            f"lower {draw.place}n_way"
        )
    small = [f"{quoted_key(name)} ({size})" for name, size in classes.items() if size < form.images_per_class]
    if small:
        more = f" and {len(small) - CLASSES_SHOWN} more" if len(small) > CLASSES_SHOWN else ""
        shots = "evaluate.shots" if draw.use == "evaluation" else f"{draw.place}n_shot"
        names = ", ".join(small[:CLASSES_SHOWN])
        yield (
            f"{form.n_shot} shots + {form.n_query} queries per class requested for {draw.use}, but {len(small)} of "
            f"{len(classes)} classes of split {quoted(draw.split)} have fewer images: {names}{more}; "
            f"add images, leave these classes out, or lower {shots} or {draw.place}n_query"
        )
