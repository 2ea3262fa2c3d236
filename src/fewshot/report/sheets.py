"""Episode sheets: the support images of a test episode, and its queries with correct and wrong predictions."""

from collections.abc import Iterator

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fewshot.datasets.store import JoinedImages, is_store, open_store
from fewshot.files import read_npz
from fewshot.report.contents import Contents
from fewshot.report.measure import Run
from fewshot.report.style import CORRECT_COLOR, WRONG_COLOR, Picture

MAX_SUPPORT = 5
TILE_PIXELS = 64
FRAME_PIXELS = 4
PIXELS_PER_INCH = 100
CLASS_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def sheet_pictures(contents: Contents) -> Iterator[Picture]:
    """Yield one sheet per group and target: the first test episode at the smallest shot, of the first seed.

    Evaluations that stored no episodes, and targets whose images are not on this machine, are left out.
    """
    drawn = set()
    for run in sorted(contents.runs, key=lambda run: run.shot):
        place = (run.entry.group, run.entry.target)
        if place not in drawn and run.selection == "single":
            drawn.add(place)
            picture = sheet(run, contents.labels[run.entry.group])
            if picture is not None:
                yield picture


def sheet(run: Run, label: str) -> Picture | None:
    """Draw the first stored episode of a run; None if there is none, or its images are not on this machine.

    Raises:
        DataError: if its images are damaged.
    """
    n_way, entry = run.protocol["n_way"], run.entry
    episode = _first_episode(run)
    if episode is None or n_way > len(CLASS_NAMES) or not is_store(entry.store_dir):
        return None
    images = open_store(entry.store_dir).split(run.protocol["split"]).images
    support, query, labels, predictions = episode
    order = np.argsort(labels, kind="stable")
    correct = (predictions == labels)[order].reshape(n_way, -1)
    mosaic = np.concatenate(
        [
            _tiles(images[support].reshape(n_way, run.shot, *images.shape[1:])[:, :MAX_SUPPORT], None),
            np.full((n_way * _side(images), FRAME_PIXELS * 3, 3), 255, np.uint8),
            _tiles(images[query[order]].reshape(n_way, -1, *images.shape[1:]), correct),
        ],
        axis=1,
    )
    predicted = predictions[order].reshape(n_way, -1)
    figure = _annotated(mosaic, predicted, correct, min(run.shot, MAX_SUPPORT), _side(images))
    accuracy_pct = 100 * correct.mean()
    title = f"{label}, {entry.backbone} on {entry.target}\n{n_way}-way {run.shot}-shot: {accuracy_pct:.0f} % correct"
    figure.suptitle(title, fontsize=9)
    return Picture(
        f"episode-{entry.group}-{entry.target}",
        "Episode sheets",
        f"{entry.experiment} on {entry.target}: the first test episode, {run.shot}-shot. On the left the support "
        "images of each class, on the right its queries. Blue frame: correct; orange frame: wrong, with the letter of "
        "the predicted class.",
        figure,
    )


def _first_episode(run: Run) -> list[np.ndarray] | None:
    """Return support rows, query rows, query labels and predictions of the first stored episode; None if not stored."""
    parts = ("support_rows", "query_rows", "query_labels", "predictions")
    names = [f"sheet/{run.shot}shot/{part}" for part in parts]
    arrays = read_npz(run.entry.arrays)
    return [arrays[name][0] for name in names] if all(name in arrays for name in names) else None


def _side(images: np.ndarray | JoinedImages) -> int:
    """Return the side of a framed tile in pixels; small images are enlarged by an integer factor."""
    size = max(images.shape[1:3])
    return size * max(1, TILE_PIXELS // size) + 2 * FRAME_PIXELS


def _tiles(images: np.ndarray, correct: np.ndarray | None) -> np.ndarray:
    """Tile images, (rows, columns, H, W, 3), into one, with frames in the colour of `correct` unless it is None."""
    factor = max(1, TILE_PIXELS // max(images.shape[2:4]))
    large = images.repeat(factor, axis=2).repeat(factor, axis=3)
    frame = ((FRAME_PIXELS,) * 2,) * 2
    framed = np.pad(large, ((0, 0), (0, 0), *frame, (0, 0)), constant_values=255)
    if correct is not None:
        inside = np.zeros(framed.shape[2:4], bool)
        inside[2:-2, 2:-2] = True
        inside[FRAME_PIXELS:-FRAME_PIXELS, FRAME_PIXELS:-FRAME_PIXELS] = False
        colors = np.where(correct[..., None], _bytes(CORRECT_COLOR), _bytes(WRONG_COLOR))
        framed = np.where(inside[..., None], colors[:, :, None, None, :], framed)
    rows, columns, height, width, channels = framed.shape
    return framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels).astype(np.uint8)


def _bytes(color: str) -> np.ndarray:
    return np.round(255 * np.array(to_rgb(color))).astype(np.uint8)


def _annotated(mosaic: np.ndarray, predicted: np.ndarray, correct: np.ndarray, support: int, side: int) -> Figure:
    """Add class letters on the left, and the letter of the predicted class to every wrong prediction."""
    height, width = mosaic.shape[:2]
    figure = Figure(figsize=((width + 40) / PIXELS_PER_INCH, (height + 60) / PIXELS_PER_INCH), layout="constrained")
    axis = figure.subplots()
    axis.imshow(mosaic, interpolation="nearest")
    axis.set_axis_off()
    first_query = support * side + 3 * FRAME_PIXELS
    for row in range(len(predicted)):
        axis.text(-8, (row + 0.5) * side, CLASS_NAMES[row], ha="right", va="center", weight="bold", fontsize=11)
        for column in np.flatnonzero(~correct[row]).tolist():
            x, y = first_query + column * side + 7, row * side + 7
            box = {"facecolor": WRONG_COLOR, "edgecolor": "none", "pad": 1.5}
            letter = CLASS_NAMES[predicted[row, column]]
            axis.text(x, y, letter, ha="left", va="top", color="white", weight="bold", fontsize=8, bbox=box)
    axis.text(support * side / 2, -6, "support", ha="center", va="bottom", fontsize=8)
    axis.text((first_query + width) / 2, -6, "queries", ha="center", va="bottom", fontsize=8)
    return figure
