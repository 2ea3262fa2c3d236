"""The forms in which few-shot data is distributed, all read as `ImageSource`: first classes by row, then images."""

import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from fewshot.datasets import SPLITS
from fewshot.datasets.class_lists import ClassLists
from fewshot.datasets.file_sets import FileSet
from fewshot.datasets.images import MAX_FILE_BYTES, decode_image, is_image_name
from fewshot.datasets.safe_pickle import load_pickle
from fewshot.datasets.split_files import SplitPlan
from fewshot.errors import DataError

SPLIT_WORDS = {"train": "train", "base": "train", "val": "validation", "valid": "validation",
               "validation": "validation", "test": "test", "novel": "test"}  # fmt: skip
PICKLE_ENDINGS = (".pkl", ".pickle")
ARCHIVE_NAME = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|gz|bz2|xz|7z|rar|zst)$", re.IGNORECASE)
MAX_NPY_HEADER = 10_000
# Control characters, line and paragraph separators, and the surrogates that stand for bytes that are not UTF-8.
UNUSABLE_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NAMES_SHOWN = 5


class ImageSource(Protocol):
    """Images with their class names.

    Attributes:
        origin: file or folder, for errors.
        classes: class name of each image, by row.
    """

    origin: str
    classes: Sequence[str]

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield (row, image (H, W, 3) uint8, source id) for ascending rows."""
        ...


class ArraySource:
    """Images in one array, (N, H, W, 3) uint8.

    Args:
        origin: file in messages.
        images: the array.
        classes: class name of each image.
        source_ids: one per image, or the name of the file, to which the row is added.
    """

    def __init__(
        self, origin: str, images: np.ndarray, classes: Sequence[str], source_ids: Sequence[str] | str
    ) -> None:
        if len(images) != len(classes):
            raise DataError(f"{origin}: {len(images)} images but {len(classes)} labels; fetch it again")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise DataError(f"{origin}: images are {images.dtype} of shape {images.shape}, expected uint8 (N, H, W, 3)")
        self.origin, self.classes, self._images = origin, classes, images
        self._source_ids = source_ids

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images."""
        for row in rows:
            source_id = f"{self._source_ids}#{row}" if isinstance(self._source_ids, str) else self._source_ids[row]
            yield row, self._images[row], source_id


class StreamSource:
    """Images in an .npy stream, read row by row, so that memory does not grow with the file."""

    def __init__(
        self,
        files: FileSet,
        name: str,
        open_stream: Callable[[BinaryIO], AbstractContextManager[BinaryIO]],
        classes: Sequence[str],
    ):
        self.origin, self.classes = files.where(name), classes
        self._files, self._name, self._open_stream = files, name, open_stream

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images, reading the stream once from the start."""
        wanted = set(rows)
        with self._files.open(self._name) as file, self._open_stream(file) as stream:
            shape = read_npy_header(stream, self.origin)
            if len(shape) != 4 or shape[3] != 3 or shape[0] != len(self.classes):
                raise DataError(
                    f"{self.origin}: images of shape {shape} for {len(self.classes)} labels; fetch it again"
                )
            image_bytes = int(np.prod(shape[1:]))
            for row in range(shape[0]):
                content = stream.read(image_bytes)
                if len(content) != image_bytes:
                    raise DataError(f"{self.origin} ends in image {row} of {shape[0]}; fetch it again")
                if row in wanted:
                    yield row, np.frombuffer(content, np.uint8).reshape(shape[1:]), f"{self._name}#{row}"


class FileSource:
    """One file per image, decoded when read."""

    def __init__(
        self,
        files: FileSet,
        names: Sequence[str],
        classes: Sequence[str],
        to_array: Callable[[Image.Image], np.ndarray],
    ) -> None:
        self.origin, self.classes = files.origin, classes
        self._files, self._names, self._to_array = files, names, to_array

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images."""
        for row in rows:
            name = self._names[row]
            image = decode_counted(self._files, self._files.read(name, MAX_FILE_BYTES), self._files.where(name))
            yield row, self._to_array(image), name


class PickledFilesSource:
    """Image files in one pickled list, as bytes or arrays of bytes; reading holds the whole list in memory."""

    def __init__(
        self, files: FileSet, name: str, classes: Sequence[str], to_array: Callable[[Image.Image], np.ndarray]
    ) -> None:
        self.origin, self.classes = files.where(name), classes
        self._files, self._name, self._to_array = files, name, to_array

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield the images."""
        items = read_pickle(self._files, self._name)
        if not isinstance(items, list | np.ndarray) or len(items) != len(self.classes):
            found = len(items) if isinstance(items, list | np.ndarray) else type(items).__name__
            raise DataError(f"{self.origin}: {len(self.classes)} labels but {found} images; fetch it again")
        for row in rows:
            item, source_id = items[row], f"{self._name}#{row}"
            origin = f"{self.origin}#{row}"
            content = item.tobytes() if isinstance(item, np.ndarray) and item.dtype == np.uint8 else item
            if not isinstance(content, bytes):
                raise DataError(f"{origin} is {type(item).__name__}, not an encoded image; fetch it again")
            yield row, self._to_array(decode_counted(self._files, content, origin)), source_id


def decode_counted(files: FileSet, content: bytes, origin: str) -> Image.Image:
    """Decode an image file of a set to RGB; count in the set's tally what had to be converted."""
    picture = decode_image(content, origin)
    files.tally.converted.update(picture.converted)
    return picture.image


def read_npy_header(stream: BinaryIO, origin: str) -> tuple[int, ...]:
    """Read the header of an .npy stream; return the shape.

    Raises:
        DataError: unless it declares uint8 in C order.
    """
    try:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(stream, max_header_size=MAX_NPY_HEADER)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # numpy parses the header as a Python literal
        # numpy's text is left out: it may advise to allow pickles.
        raise DataError(f"{origin} is not an array file, or its header is damaged; fetch it again") from error
    if dtype != np.uint8 or fortran:
        raise DataError(f"{origin}: {dtype} in {'Fortran' if fortran else 'C'} order, expected uint8 in C order")
    return tuple(shape)


def read_pickle(files: FileSet, name: str) -> Any:
    """Read a pickle of plain values and arrays."""
    with files.open(name) as file:
        return load_pickle(file, files.where(name))


def split_of_name(name: str) -> str | None:
    """Return the split given by the last split word in a file name, or None.

    For example "CIFAR_FS_val" is validation and "mini-imagenet-cache-train" is train.
    """
    words = [word for word in re.split(r"[^a-z]+", PurePosixPath(name).name.lower()) if word in SPLIT_WORDS]
    return SPLIT_WORDS[words[-1]] if words else None


def files_by_split(files: FileSet, endings: Sequence[str], ignore: Sequence[str] = ()) -> dict[str, str]:
    """Return split -> the file with one of the endings and the split in its name; skip names that contain `ignore`.

    Raises:
        DataError: if two files claim the same split.
    """
    found: dict[str, str] = {}
    for name in files.names():
        ending = next((ending for ending in endings if name.endswith(ending)), None)
        split = split_of_name(name.removesuffix(ending)) if ending else None
        if split is None or any(text in name for text in ignore):
            continue
        if split in found:
            raise DataError(f"{found[split]!r} and {name!r} both claim to be split {split!r}; remove one")
        found[split] = name
    return found


def image_names(files: FileSet) -> list[str]:
    """Return the names of the image files.

    Raises:
        DataError: if some are not UTF-8 or contain control characters, so that they cannot be shown or recorded.
    """
    names = [name for name in files.names() if is_image_name(name)]
    unusable = [name for name in names if UNUSABLE_IN_NAMES.search(name)]
    if unusable:
        raise DataError(
            f"{files.origin}: {len(unusable)} names of images or their folders contain line breaks or other control "
            f"characters, or are not UTF-8; rename them: {', '.join(map(repr, unusable[:NAMES_SHOWN]))}"
        )
    return names


def unknown_form(files: FileSet, dataset: str, accepted: str) -> DataError:
    """Return the error to raise when the files are no form of a data set.

    Args:
        files: the files.
        dataset: its name in prose.
        accepted: the accepted forms.
    """
    archives = [name for name in files.names() if ARCHIVE_NAME.search(name)]
    shown = ", ".join(archives[:3]) + (", ..." if len(archives) > 3 else "")
    hint = (
        f". It contains archives ({shown}); archives in subfolders or inside another archive are not opened: extract "
        "them, or set the path to the folder that has them at its top"
    )
    return DataError(
        f"{files.origin} is not a known form of {dataset}; accepted: {accepted}; found {files.names()[:5]}"
        + (hint if archives else "")
    )


def folder_class(name: str) -> str:
    """Return the name of the folder that contains a file."""
    return PurePosixPath(name).parent.name


def split_folder_conflict(
    names: Sequence[str], classes: Sequence[str], lists: ClassLists
) -> tuple[str, set[str], int] | None:
    """Return the first class whose folders, named after splits, contradict the class lists.

    Args:
        names: names of image files.
        classes: class of each file.
        lists: the published splits.

    Returns:
        The class, the folders it is in, and the number of such classes; None if there are none, or if all images are
        below one such folder, as those of ILSVRC-2012 are below `train`.
    """
    folders: dict[str, set[str]] = {}
    for name, class_name in zip(names, classes, strict=True):
        above = [part for part in PurePosixPath(name).parts[:-1] if part != class_name and part.lower() in SPLIT_WORDS]
        if above:
            folders.setdefault(class_name, set()).add(above[-1])
    if len(set().union(*folders.values())) < 2:
        return None
    conflicts = [
        class_name
        for split in SPLITS
        for class_name in lists.splits[split]
        if any(SPLIT_WORDS[folder.lower()] != split for folder in folders.get(class_name, ()))
    ]
    return (conflicts[0], folders[conflicts[0]], len(conflicts)) if conflicts else None


def labels_to_names(labels: Any, origin: str, names: Mapping[int, str] | None = None) -> list[str]:
    """Return class names for numeric labels: from `names`, or "class-007".

    Raises:
        DataError: if the labels are not a list of integers, or have no name.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{origin}: labels are {array.dtype} of shape {array.shape}, expected a list of integers")
    if names is None:
        return [f"class-{label:03d}" for label in array.tolist()]
    missing = sorted(set(array.tolist()) - names.keys())
    if missing:
        raise DataError(f"{origin}: labels {missing[:5]} have no class name; fetch it again")
    return [names[label] for label in array.tolist()]


def value_of(content: Any, keys: Sequence[str], origin: str) -> Any:
    """Return the value of the first of the keys that a pickled dictionary has.

    Raises:
        DataError: if it has none of them.
    """
    if isinstance(content, dict):
        for key in keys:
            if key in content:
                return content[key]
    found = f"keys {sorted(map(str, content))[:8]}" if isinstance(content, dict) else type(content).__name__
    raise DataError(f"{origin}: none of the keys {', '.join(keys)}, found {found}; it is another data set or form")


def class_dict_names(class_dict: Any, n_images: int, origin: str) -> list[str]:
    """Return the class of each image from a dictionary class -> rows.

    Raises:
        DataError: if an image has no class or two classes, or a row does not exist.
    """
    if not isinstance(class_dict, dict):
        raise DataError(f"{origin}: class_dict is {type(class_dict).__name__}, expected class name -> rows")
    names: list[str | None] = [None] * n_images
    for class_name, rows in class_dict.items():
        for row in np.asarray(rows).reshape(-1).tolist():
            if not isinstance(row, int) or not 0 <= row < n_images:
                raise DataError(f"{origin}: class {class_name!r} lists image {row!r} of {n_images}; fetch it again")
            if names[row] is not None:
                raise DataError(
                    f"{origin}: image {row} is in the classes {names[row]!r} and {class_name!r}; fetch it again"
                )
            names[row] = str(class_name)
    if None in names:
        raise DataError(f"{origin}: image {names.index(None)} is in no class; fetch it again")
    return [name for name in names if name is not None]


def plan_splits(source: ImageSource, lists: ClassLists) -> Iterator[SplitPlan]:
    """Divide one source of all classes into the splits of the class lists.

    Raises:
        DataError: if a class is missing or the numbers of images differ from the published ones.
    """
    found = Counter(source.classes)
    check_complete(source.origin, found, lists)
    lists.check_images({split: {name: found[name] for name in lists.splits[split]} for split in SPLITS})
    for split in SPLITS:
        yield _plan(split, source, lists.splits[split], found)


def check_complete(origin: str, found: Mapping[str, int], lists: ClassLists) -> None:
    """Refuse a source that lacks listed classes.

    Args:
        origin: of the source, for errors.
        found: images by class.
        lists: the classes it must have.
    """
    wanted = [name for split in SPLITS for name in lists.splits[split]]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{origin} lacks {len(missing)} of {len(wanted)} classes: {', '.join(missing[:5])}, ...; "
            f"it has {len(found)}: {', '.join(sorted(found)[:5])}, ..."
        )


def plan_split_sources(sources: Mapping[str, ImageSource], lists: ClassLists) -> Iterator[SplitPlan]:
    """Take one source per split and check its classes against the class lists.

    If the classes of a source are only numbered ("class-007"), their counts are checked, and they are prefixed with the
    name of the split.

    Raises:
        DataError: if a split is missing or swapped, or classes or numbers of images differ from the published ones.
    """
    for split in SPLITS:
        if split not in sources:
            raise DataError(f"split {split!r} is missing; found {', '.join(sources) or 'none'}; fetch all files")
    counts = {split: Counter(sources[split].classes) for split in SPLITS}
    ordered: dict[str, list[str]] = {}
    for split in SPLITS:
        expected = lists.splits[split]
        if all(name.startswith("class-") for name in counts[split]):
            if len(counts[split]) != len(expected):
                raise DataError(
                    f"{sources[split].origin}: {len(counts[split])} classes, split {split!r} has {len(expected)}; "
                    "are the files of two splits swapped?"
                )
            ordered[split] = sorted(counts[split])
        else:
            _check_same_classes(split, sources[split], counts[split], lists)
            ordered[split] = list(expected)
    lists.check_images({split: {name: counts[split][name] for name in ordered[split]} for split in SPLITS})
    for split in SPLITS:
        plan = _plan(split, sources[split], ordered[split], counts[split])
        names = [f"{split}-{name}" if name.startswith("class-") else name for name in plan.class_names]
        yield SplitPlan(split, names, plan.class_sizes, plan.images)


def _check_same_classes(split: str, source: ImageSource, found: Mapping[str, int], lists: ClassLists) -> None:
    expected = set(lists.splits[split])
    if set(found) == expected:
        return
    for other in SPLITS:
        if set(found) == set(lists.splits[other]):
            raise DataError(f"{source.origin} has the classes of {other!r}, not of {split!r}: the files are swapped")
    missing, extra = sorted(expected - set(found)), sorted(set(found) - expected)
    raise DataError(
        f"{source.origin}, split {split!r}: {len(missing)} classes are missing ({', '.join(missing[:3])}), "
        f"{len(extra)} do not belong there ({', '.join(extra[:3])}); it is damaged or of another split"
    )


def _plan(split: str, source: ImageSource, names: Sequence[str], counts: Mapping[str, int]) -> SplitPlan:
    labels = {name: label for label, name in enumerate(names)}

    def images() -> Iterator[tuple[int, np.ndarray, str]]:
        rows = [row for row, name in enumerate(source.classes) if name in labels]
        for row, image, source_id in source.read(rows):
            yield labels[source.classes[row]], image, source_id

    return SplitPlan(split, list(names), [counts[name] for name in names], images())
