"""Episode sheets: the support images of a test episode, and its queries with the wrong predictions marked.

All learners are tested on the same episodes, so the images are stored once and each learner only adds its marks.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from markupsafe import escape
from PIL import Image

from fewshot.datasets.store import SplitStore, is_store, open_store
from fewshot.digests import digest
from fewshot.files import read_npz
from fewshot.report.contents import Contents
from fewshot.report.measure import Run

MAX_SUPPORT = 5
MAX_TILE = 64  # pixels; larger images are reduced
MAX_SHEETS = 60
GAP = 4  # pixels around a tile
LETTER_WIDTH, CHARACTER_WIDTH = 20, 7  # of a class's letter with its gap, and of the characters of its name
MAX_NAME = 20  # characters
HEADER = 16
QUALITY = 85  # of WebP
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Also in the page, once for all sheets.
STYLE = (
    ".sheet text{font:11px 'DejaVu Sans',Verdana,sans-serif;fill:#1b1f24}"
    ".sheet .wrong{fill:none;stroke:#b34700;stroke-width:2.5}.sheet .tag{fill:#b34700}"
    ".sheet .letter{fill:#fff;font-weight:bold;text-anchor:middle}"
)


@dataclass(frozen=True)
class Mosaic:
    """The images of an episode, without marks.

    Attributes:
        id: name of the mosaic, equal for equal images.
        webp: the file; the tiles are in rows by class, the support images first.
        width: pixels.
        height: pixels.
    """

    id: str
    webp: bytes
    width: int
    height: int

    @property
    def element(self) -> str:
        """The image as an element of an SVG."""
        data = base64.b64encode(self.webp).decode("ascii")
        size = f'width="{self.width}" height="{self.height}"'
        return f'<image id="{self.id}" href="data:image/webp;base64,{data}" {size}/>'


@dataclass(frozen=True)
class Sheet:
    """One learner's predictions on an episode.

    Attributes:
        name: file name without suffix.
        caption: what it shows.
        mosaic: the images.
        left: where the images begin, pixels.
        svg: an SVG with names and marks; "{mosaic}" stands for the images.
    """

    name: str
    caption: str
    mosaic: Mosaic
    left: int
    svg: str

    @property
    def file(self) -> str:
        """The complete SVG."""
        images = f'<svg x="{self.left}" y="{HEADER}">{self.mosaic.element}</svg>'
        return self.svg.replace("{mosaic}", f"<style>{STYLE}</style>{images}") + "\n"

    @property
    def shared(self) -> str:
        """The SVG for a page that has the element of the mosaic elsewhere."""
        return self.svg.replace("{mosaic}", f'<use href="#{self.mosaic.id}" x="{self.left}" y="{HEADER}"/>')


def sheets(contents: Contents) -> list[Sheet]:
    """Return the sheets of a report: the first test episode of each group, target and shot, of the first seed.

    Evaluations that stored no episodes, and targets whose images are not on this machine, are left out, and so is what
    would be more than a page can show.

    Raises:
        DataError: if images are damaged.
    """
    made = (sheet(run, contents.labels[run.entry.group]) for run in _first_runs(contents))
    return list(islice((found for found in made if found is not None), MAX_SHEETS))


def _first_runs(contents: Contents) -> Iterator[Run]:
    """Yield the run of the first seed of each group, target and shot, up to five shots."""
    seen = set()
    for run in contents.runs:
        place = (run.entry.group, run.entry.target, run.shot)
        if run.selection == "single" and run.shot <= MAX_SUPPORT and place not in seen:
            seen.add(place)
            yield run


def sheet(run: Run, label: str) -> Sheet | None:
    """Return the first stored episode of a run; None if there is none, or its images are not on this machine."""
    n_way, entry = run.protocol["n_way"], run.entry
    episode = _first_episode(run)
    if episode is None or n_way > len(LETTERS) or not is_store(entry.store_dir):
        return None
    split = open_store(entry.store_dir).split(run.protocol["split"])
    support, query, labels, predictions = episode
    order = np.argsort(labels, kind="stable")
    rows = np.concatenate([support.reshape(n_way, -1), query[order].reshape(n_way, -1)], axis=1)
    predicted = predictions[order].reshape(n_way, -1)
    names = [split.class_names[label] for label in split.labels[rows[:, 0]]]
    accuracy_pct = 100 * float((predictions == labels).mean())
    caption = f"{label}, {entry.backbone} on {entry.target}, {run.shot}-shot: {accuracy_pct:.0f} % correct"
    images, left = mosaic(split, rows), LETTER_WIDTH + CHARACTER_WIDTH * max(len(_short(name)) for name in names)
    return Sheet(
        f"episode-{entry.group}-{entry.target}-{run.shot}shot",
        caption,
        images,
        left,
        _marked(images, left, names, predicted, caption),
    )


def _first_episode(run: Run) -> list[np.ndarray] | None:
    """Return support rows, query rows, query labels and predictions of the first stored episode; None if not stored."""
    parts = ("support_rows", "query_rows", "query_labels", "predictions")
    names = [f"sheet/{run.shot}shot/{part}" for part in parts]
    arrays = read_npz(run.entry.arrays)
    return [arrays[name][0] for name in names] if all(name in arrays for name in names) else None


def mosaic(split: SplitStore, rows: np.ndarray) -> Mosaic:
    """Return the images of a split in a grid, (rows, columns) of their numbers, at their true size up to `MAX_TILE`."""
    images = np.asarray(split.images[rows.reshape(-1)])
    side = min(MAX_TILE, max(images.shape[1:3]))
    pitch = side + 2 * GAP
    canvas = Image.new("RGB", (rows.shape[1] * pitch, rows.shape[0] * pitch), "white")
    for place, image in enumerate(images):
        tile = Image.fromarray(image.squeeze())
        row, column = divmod(place, rows.shape[1])
        if max(tile.size) > side:
            tile = tile.resize((side, side), Image.Resampling.BOX)
        canvas.paste(tile, (column * pitch + GAP, row * pitch + GAP))
    written = io.BytesIO()
    canvas.save(written, "WEBP", quality=QUALITY, method=4)
    key = digest([str(split.source_files), images.shape, rows.tolist()])
    return Mosaic(f"mosaic-{key}", written.getvalue(), *canvas.size)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _marked(images: Mosaic, left: int, names: list[str], predicted: np.ndarray, title: str) -> str:
    """Return the SVG of a sheet: class names on the left, and a frame and letter on every wrong prediction."""
    pitch = images.height // len(names)
    width, height = left + images.width, HEADER + images.height
    parts = ["{mosaic}"]
    for row, name in enumerate(names):
        letter, y = f'<tspan font-weight="bold">{LETTERS[row]}</tspan>', HEADER + (row + 0.5) * pitch
        parts.append(f'<text x="0" y="{y:g}" dy=".35em">{letter} {escape(_short(name))}</text>')
    first = width - predicted.shape[1] * pitch
    parts.append(f'<text x="{first - GAP}" y="11" text-anchor="end">support</text>')
    parts.append(f'<text x="{first + GAP}" y="11">queries</text><path d="M{first} 0V{height}" stroke="#d1d9e0"/>')
    for row, column in np.argwhere(predicted != np.arange(len(names))[:, None]).tolist():
        x, y = first + column * pitch, HEADER + row * pitch
        frame = f'x="{x + 2}" y="{y + 2}" width="{pitch - 4}" height="{pitch - 4}"'
        parts.append(f'<rect {frame} class="wrong"/><rect x="{x + 2}" y="{y + 2}" width="12" height="13" class="tag"/>')
        parts.append(f'<text x="{x + 8}" y="{y + 12.5}" class="letter">{LETTERS[predicted[row, column]]}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="sheet" viewBox="0 0 {width} {height}"'
    label = f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}"'
    return f"{head} {label}>{''.join(parts)}</svg>"
