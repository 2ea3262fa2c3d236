"""A trained few-shot classifier for use in programs: loads a folder written by `fewshot export`, classifies images."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot.backbones import BACKBONES
from fewshot.datasets.images import (
    BrokenImageError,
    Picture,
    convert_image,
    crop_square,
    decode_image,
    refuse_broken,
    resize_square,
)
from fewshot.datasets.omniglot import reduce_drawing
from fewshot.datasets.tally import summary
from fewshot.digests import sha256_of
from fewshot.episodes.batch import EpisodeBatch
from fewshot.errors import CheckpointError, DataError, ParamsError, ResourceError, quoted, quoted_key
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.experiment import Choice, Experiment
from fewshot.experiments.params import Evaluate, Recipe
from fewshot.experiments.precision import as_evaluated
from fewshot.files import read_json
from fewshot.learners import LEARNERS
from fewshot.learners.base import Learner
from fewshot.registry import Part, find_part
from fewshot.settings import parse_as
from fewshot.sharing.export import FORMAT, ExportRecord, Fit, record_hash
from fewshot.sharing.shipped import shipped_folder, shipped_models
from fewshot.weights.foreign import load_foreign_weights

log = logging.getLogger(__name__)

IMAGES_PER_FORWARD = 256

Device = torch.device | str | None

FITS: dict[Fit, Callable[[Image.Image, int], np.ndarray]] = {
    "squash": resize_square,
    "center_crop": crop_square,
    "drawing": lambda image, size: reduce_drawing(image),  # its size is Omniglot's; preprocessing resizes it
}


class Classifier:
    """A trained few-shot classifier for images given as paths, PIL images or uint8 arrays (H, W, 3).

    Paths and PIL images are converted to RGB as in preparation (docs/data.md), and all images are made square as those
    of the training were: resized, both sides independently, or their central square, or reduced to white ink on black.

    Args:
        experiment: what was trained.
        learner: with the trained weights.
        device: where to compute; None: a GPU if there is one.
        fit: how images are made square.

    Attributes:
        n_way: the number of classes it can distinguish; None means any.
    """

    def __init__(self, experiment: Experiment, learner: Learner, device: Device = None, fit: Fit = "squash") -> None:
        self.experiment = experiment
        self.fit = FITS[fit]
        self.device = _usable_device(device)
        self.learner = learner.to(self.device).eval()
        self.preprocess = preprocessing(experiment)
        self.n_way = None if learner.caches_embeddings else experiment.recipe.n_way

    def classify(self, support: Sequence[Any], labels: Sequence[Hashable], query: Sequence[Any]) -> list[Any]:
        """Return the most likely label of each query image.

        Learners that adapt by gradient steps normalise the query images together unless they were trained with
        `batch_norm: support` or `per_query`, so their answer for one image may depend on the other queries.

        Args:
            support: labelled images.
            labels: one per support image, all numbers or all strings; at least two classes.
            query: images to classify.

        Returns:
            One label per query image.

        Raises:
            DataError: if an image cannot be read, the numbers of images and labels differ, or the learner needs a
                different number of classes.

        Example:
            Three labelled images of two classes, and one to classify::

                model = fewshot.load("exports/glyphs-conv4-ridge-quick-s0")
                labels = model.classify(["cup1.jpg", "cup2.jpg", "lamp1.jpg"], ["cup", "cup", "lamp"], ["unknown.jpg"])
        """
        classes = self._classes(support, labels)
        return [classes[best] for best in self.scores(support, labels, query).argmax(1).tolist()]

    @torch.no_grad()
    def scores(self, support: Sequence[Any], labels: Sequence[Hashable], query: Sequence[Any]) -> Tensor:
        """Return the scores of the query images, (query images, classes) float32; larger is more likely.

        The columns are the distinct labels in sorted order; arguments and errors as in `classify`.
        """
        with as_evaluated(self.experiment.recipe.precision):
            return self._scores(support, labels, query)

    def _scores(self, support: Sequence[Any], labels: Sequence[Hashable], query: Sequence[Any]) -> Tensor:
        classes = self._classes(support, labels)
        targets = torch.tensor([[classes.index(label) for label in _plain(labels)]], device=self.device)
        images = {"support": self._prepared(support, "support"), "query": self._prepared(query, "query")}
        if self.learner.caches_embeddings:
            support_features, query_features = self._embedded(images["support"]), self._embedded(images["query"])
            return self.learner.classify(support_features, targets, query_features, len(classes))[0].float().cpu()
        n_query = len(images["query"])
        episode = EpisodeBatch(
            support_images=images["support"][None],
            support_labels=targets,
            query_images=images["query"][None],
            query_labels=torch.zeros((1, n_query), dtype=torch.int64, device=self.device),
            episode_ids=torch.zeros(1, dtype=torch.int64),
            n_way=len(classes),
        )
        return self.learner.logits(episode)[0].float().cpu()

    def _classes(self, support: Sequence[Any], labels: Sequence[Hashable]) -> list[Any]:
        """Return the distinct labels, sorted."""
        given = _plain(labels)
        if len(given) != len(support):
            raise DataError(f"{len(support)} support images but {len(given)} labels; give one label per image")
        try:
            classes = sorted(set(given))
        except TypeError:
            raise DataError("the labels are of several types; give them all as numbers or all as strings") from None
        if len(classes) < 2:
            raise DataError(f"{len(classes)} classes among the support images; give images of two or more")
        if self.n_way not in (None, len(classes)):
            raise DataError(
                f"{quoted_key(self.experiment.name)} was trained to distinguish exactly {self.n_way} classes, not "
                f"{len(classes)}; give support images of {self.n_way}, or use a learner with a head (ridge, svm ...)"
            )
        return classes

    def _prepared(self, images: Sequence[Any], role: str) -> Tensor:
        """Return (N, 3, H, W) float32 on the device."""
        if len(images) == 0:
            raise DataError(f"no {role} images given")
        size = self.experiment.image_size
        squares = [self.fit(image, size) for image in _pictures(images, role)]
        return self.preprocess.images(np.stack(squares)).to(self.device)

    def _embedded(self, images: Tensor) -> Tensor:
        """Return the embeddings of one episode's images, (1, N, d)."""
        return torch.cat([self.learner.embed(part).float() for part in images.split(IMAGES_PER_FORWARD)])[None]


def _plain(labels: Any) -> list[Any]:
    """Return labels as a list; those of tensors and arrays as plain numbers."""
    return list(labels.tolist() if hasattr(labels, "tolist") else labels)


def _pictures(images: Sequence[Any], role: str) -> list[Image.Image]:
    """Return images as RGB, converted as in preparation; log how many had to be converted.

    Raises:
        DataError: if some cannot be used; names all of them.
    """
    pictures: list[Image.Image] = []
    converted: Counter[str] = Counter()
    broken: dict[str, str] = {}
    for number, image in enumerate(images):
        name = f"{role} image {number}"
        try:
            picture = _picture(image, name)
        except BrokenImageError as error:
            broken[name] = (
                f"({quoted_key(str(image))}) {error.reason}" if isinstance(image, (str, Path)) else error.reason
            )
            continue
        pictures.append(picture.image)
        converted.update(picture.converted)
    refuse_broken(f"{role} images", broken, "replace them or leave them out")
    if converted:
        log.warning("%s images converted: %s", role, summary(converted))
    return pictures


def _picture(image: Any, name: str) -> Picture:
    """Return one image as RGB.

    Raises:
        BrokenImageError: if it cannot be read or converted.
        DataError: if it is nothing that can be an image.
    """
    if isinstance(image, Image.Image):
        return convert_image(image, name)
    if isinstance(image, (str, Path)):
        try:
            content = Path(image).read_bytes()
        except (OSError, ValueError) as error:  # ValueError for a path with a null byte
            reason = getattr(error, "strerror", None) or quoted_key(str(error))
            raise BrokenImageError(name, f"cannot be read ({reason})") from None
        return decode_image(content, name)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"{name} is {array.dtype} of shape {array.shape}; allowed: a path, a PIL image, or uint8 (H, W, 3)"
        )
    return Picture(Image.fromarray(array), ())


def _usable_device(device: Device) -> torch.device:
    """Return a device after checking that tensors can be stored on it.

    Raises:
        ResourceError: if torch does not know it or cannot use it.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        found = f"cpu, cuda:0 .. cuda:{torch.cuda.device_count() - 1}" if torch.cuda.is_available() else "cpu"
        raise ResourceError(f"device is {quoted(device)}, which cannot be used; found: {found}") from error
    return chosen


def load(folder: str | Path, device: Device = None) -> Classifier:
    """Load the classifier that `fewshot export` wrote, or one that comes with this package.

    No code in the folder is executed. It computes as evaluations do: in full float32, with deterministic kernels.

    Args:
        folder: of the export; or, if there is no such folder, the name of a model that comes with this package.
        device: where to compute, such as "cpu" or "cuda:1"; None: a GPU if there is one.

    Raises:
        CheckpointError: if the folder is not an export, or is damaged.
        ResourceError: if the device cannot be used.
    """
    folder = _folder_of(folder)
    record = _read_record(folder)
    weights = folder / "weights.safetensors"
    if os.path.isfile(weights) and sha256_of(weights) != record.weights_sha256:
        raise CheckpointError(
            f"{weights}: not the file that was exported (its sha256 differs); export or copy it again"
        )
    try:
        experiment = _experiment(record)
        with torch.random.fork_rng():  # building draws weights; keep the caller's random state
            learner = initial_learner(experiment)
    except (ParamsError, DataError) as error:
        raise CheckpointError(f"{folder / 'model.json'}: {error}") from None
    load_foreign_weights(weights, learner)
    return Classifier(experiment, learner, device, record.fit)


def _folder_of(name: str | Path) -> Path:
    """Return the folder of an export given by its path or, if there is none, by the name of a shipped model."""
    shipped = None if os.path.isdir(name) else shipped_folder(str(name))
    return shipped or Path(name)


def _read_record(folder: Path) -> ExportRecord:
    path = folder / "model.json"
    if not os.path.isfile(path):  # unlike Path.is_file, also where the name is too long
        raise CheckpointError(
            f"{quoted_key(str(folder))}: not an export, because it has no model.json; 'fewshot export "
            f"<experiment>' writes one, and models that come with this package are: {', '.join(shipped_models())}"
        )
    try:
        values = read_json(path)
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        if found != FORMAT:
            raise CheckpointError(
                f"{path}: an export of format {quoted(found)}, but this version reads format {FORMAT}"
            )
        record = parse_as(ExportRecord, values, where="")
    except (DataError, ParamsError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged; export or copy it again ({error})") from None
    if record.record_sha256 not in (None, record_hash(values)):
        raise CheckpointError(f"{path}: changed since it was exported (its hash differs); export or copy it again")
    return record


def _experiment(record: ExportRecord) -> Experiment:
    """Return the experiment that an export describes."""
    train = record.train
    recipe = parse_as(Recipe, train.recipe, where="train.recipe")
    if recipe.image_size is None:
        raise ParamsError("train.recipe.image_size: missing; it must give the side of the images in pixels")
    return Experiment(
        dataset=Choice(train.dataset, train.dataset, {}),
        backbone=_choice("backbone", train.backbone, BACKBONES),
        learner=_choice("learner", train.learner, LEARNERS),
        recipe_name=record.recipe,
        recipe=recipe,
        variant=record.variant,
        training_variant=record.variant,
        seed=train.seed,
        image_size=recipe.image_size,
        evaluate=Evaluate(),
        targets=(),
    )


def _choice(kind: str, values: Mapping[str, Any], registry: Mapping[str, Part]) -> Choice:
    """Return a component with validated settings."""
    name = values.get("name")
    if not isinstance(name, str):
        raise ParamsError(f"train.{kind}.name: must be the name of a {kind}")
    given = {key: value for key, value in values.items() if key != "name"}
    settings = parse_as(find_part(kind, name, registry).settings, given, where=f"train.{kind}")
    return Choice(name, name, settings.model_dump())
