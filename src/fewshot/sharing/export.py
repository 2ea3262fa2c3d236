"""A trained learner as a folder that stands by itself: weights, settings, a card; and its way back into a program.

<folder>/weights.safetensors   the selected state
<folder>/model.json            what to build: learner, backbone, recipe, image preparation; sha256 of the weights
<folder>/README.md             model card with the numbers of its evaluations
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from fewshot.backbones import BACKBONES
from fewshot.datasets.images import decode_image, resize_square
from fewshot.digests import sha256_of
from fewshot.episodes.draw import EpisodeBatch
from fewshot.errors import CheckpointError, DataError, FewshotError, ParamsError
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.matrix import Choice, Experiment
from fewshot.experiments.params import Evaluate, Recipe, Seed
from fewshot.files import read_json, write_atomic, write_json
from fewshot.learners import LEARNERS
from fewshot.learners.base import Learner
from fewshot.registry import Part, find_part
from fewshot.settings import Settings, parse_as
from fewshot.weights.foreign import load_foreign_weights
from fewshot.workflow.plan import EvaluateJob, TrainJob

FORMAT = 1
IMAGES_PER_FORWARD = 256


class TrainedSettings(Settings):
    """Section `train` of `model.json`: the settings of the training, as in every result file."""

    dataset: str
    backbone: dict[str, Any]
    learner: dict[str, Any]
    recipe: dict[str, Any]
    seed: Seed
    weights: str | None = None


class ExportRecord(Settings):
    """The content of `model.json`."""

    format: Literal[1]
    experiment: str
    recipe: str
    variant: str
    train_key: str
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    train: TrainedSettings


class Classifier:
    """A trained few-shot classifier for images as they come: paths, PIL images, or uint8 arrays (H, W, 3).

    Images that are not square, or of another size than the network was trained with, are resized (as in training).

    Args:
        experiment: what was trained.
        learner: with the trained weights.

    Attributes:
        n_way: the number of classes it can tell apart; None means any.
    """

    def __init__(self, experiment: Experiment, learner: Learner) -> None:
        self.experiment = experiment
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learner = learner.to(self.device).eval()
        self.preprocess = preprocessing(experiment)
        self.n_way = None if learner.caches_embeddings else experiment.recipe.n_way

    def classify(self, support: Sequence[Any], labels: Sequence[Hashable], query: Sequence[Any]) -> list[Any]:
        """Return the most likely label of each query image.

        Learners that adapt by gradient steps normalise the query images together unless they were trained with
        `batch_norm: support` or `per_query`, so that there an answer may depend on the other queries.

        Args:
            support: labelled images.
            labels: the label of each, numbers or texts; two classes at least.
            query: images to classify.

        Raises:
            DataError: if images and labels do not go together, or the learner needs another number of classes.
        """
        classes = self._classes(support, labels)
        return [classes[best] for best in self.scores(support, labels, query).argmax(1).tolist()]

    @torch.no_grad()
    def scores(self, support: Sequence[Any], labels: Sequence[Hashable], query: Sequence[Any]) -> Tensor:
        """Return the scores of the query images, (number of them, M) float32; larger is more likely.

        The columns are the labels in sorted order; arguments and errors as in `classify`.
        """
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
        """Return the different labels, sorted."""
        given = _plain(labels)
        if len(given) != len(support):
            raise DataError(f"{len(support)} support images but {len(given)} labels; give one label an image")
        try:
            classes = sorted(set(given))
        except TypeError:
            raise DataError("the labels are of several kinds; give all of them as numbers or all as texts") from None
        if len(classes) < 2:
            raise DataError(f"{len(classes)} classes among the support images; give images of two or more")
        if self.n_way not in (None, len(classes)):
            raise DataError(
                f"{self.experiment.name} was trained to tell exactly {self.n_way} classes apart, not {len(classes)}; "
                f"give support images of {self.n_way}, or take a learner with a head, such as ridge or svm"
            )
        return classes

    def _prepared(self, images: Sequence[Any], role: str) -> Tensor:
        """Return (N, 3, H, W) float32 on the device."""
        if len(images) == 0:
            raise DataError(f"no {role} images given")
        size = self.experiment.image_size
        squares = [resize_square(_picture(image, f"{role} image {i}"), size) for i, image in enumerate(images)]
        return self.preprocess.images(np.stack(squares)).to(self.device)

    def _embedded(self, images: Tensor) -> Tensor:
        """Return the embeddings of one episode's images, (1, N, d)."""
        return torch.cat([self.learner.embed(part).float() for part in images.split(IMAGES_PER_FORWARD)])[None]


def _plain(labels: Any) -> list[Any]:
    """Return labels as a list; tensors and arrays become plain numbers."""
    return list(labels.tolist() if hasattr(labels, "tolist") else labels)


def _picture(image: Any, name: str) -> Image.Image:
    """Return one image as RGB.

    Raises:
        DataError: if it is no readable image.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, (str, Path)):
        try:
            return decode_image(Path(image).read_bytes(), f"{name} ({image})")
        except OSError as error:
            raise DataError(f"{name}: {image} cannot be read ({error.strerror}); correct the path") from None
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"{name} is {array.dtype} of shape {array.shape}; allowed: a path, a PIL image, or uint8 (H, W, 3)"
        )
    return Image.fromarray(array)


def load(folder: str | Path) -> Classifier:
    """Return the classifier that `fewshot export` wrote.

    Raises:
        CheckpointError: if the folder is not an export, or is damaged.
    """
    folder = Path(folder)
    record = _read_record(folder)
    weights = folder / "weights.safetensors"
    if weights.is_file() and sha256_of(weights) != record.weights_sha256:
        raise CheckpointError(
            f"{weights}: not the file that was exported (its sha256 differs); export or copy it again"
        )
    try:
        experiment = _experiment(record)
        with torch.random.fork_rng():  # building draws weights; the program that loads keeps its random numbers
            learner = initial_learner(experiment)
    except (ParamsError, DataError) as error:
        raise CheckpointError(f"{folder / 'model.json'}: {error}") from None
    load_foreign_weights(weights, learner)
    return Classifier(experiment, learner)


def _read_record(folder: Path) -> ExportRecord:
    path = folder / "model.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no export, it has no model.json; 'fewshot export <experiment>' writes one")
    try:
        values = read_json(path)
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        if found != FORMAT:
            raise CheckpointError(f"{path}: an export of format {found!r}, this program reads {FORMAT}")
        return parse_as(ExportRecord, values, where="")
    except (DataError, ParamsError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, export or copy it again ({error})") from None


def _experiment(record: ExportRecord) -> Experiment:
    """Return the experiment that an export describes."""
    train = record.train
    recipe = parse_as(Recipe, train.recipe, where="train.recipe")
    if recipe.image_size is None:
        raise ParamsError("train.recipe.image_size: the side of the images is missing")
    return Experiment(
        dataset=Choice(train.dataset, train.dataset, {}),
        backbone=_choice("backbone", train.backbone, BACKBONES),
        learner=_choice("learner", train.learner, LEARNERS),
        recipe_name=record.recipe,
        recipe=recipe,
        variant=record.variant,
        seed=train.seed,
        image_size=recipe.image_size,
        evaluate=Evaluate(),
        targets=(),
    )


def _choice(kind: str, values: Mapping[str, Any], registry: Mapping[str, Part]) -> Choice:
    """Return a part with checked settings."""
    name = values.get("name")
    if not isinstance(name, str):
        raise ParamsError(f"train.{kind}.name: it must be the name of a {kind}")
    given = {key: value for key, value in values.items() if key != "name"}
    settings = parse_as(find_part(kind, name, registry).settings, given, where=f"train.{kind}")
    return Choice(name, name, settings.model_dump())


def export(job: TrainJob, evaluations: Sequence[EvaluateJob], out: Path) -> None:
    """Write the export of a finished training.

    Raises:
        CheckpointError: if the training is not finished.
        FewshotError: if the folder cannot be written.
    """
    weights = job.outputs["weights"]
    if not weights.exists():
        raise CheckpointError(f"{job.name} is not trained yet; run: snakemake --cores 1 {job.name}")
    experiment = job.experiment
    record = {
        "format": FORMAT,
        "experiment": experiment.name,
        "recipe": experiment.recipe_name,
        "variant": experiment.variant,
        "train_key": job.key,
        "weights_sha256": sha256_of(weights),
        "train": job.settings,
    }
    card = _card(job, evaluations)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "weights.safetensors", weights.read_bytes())
        write_atomic(out / "README.md", card.encode())
        write_json(out / "model.json", record)
    except OSError as error:
        raise FewshotError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None


CARD = """# {name}

{learner} on {backbone}, trained on {dataset} with the recipe {recipe}, seed {seed} (training key {key}, data
{data}). {ways}

{n_way}-way accuracy in %, ± 95 % interval over test episodes of {n_query} queries a class (episode seed
{episode_seed}, split {split}):

| target | shot | accuracy | episodes | batch norm |
| --- | --- | --- | --- | --- |
{rows}

```python
import fewshot

model = fewshot.load("{folder}")
labels = model.classify(support_images, support_labels, query_images)
```

All settings stand in `model.json`. The data set's licence holds for what was learned from it.
"""


def _card(job: TrainJob, evaluations: Sequence[EvaluateJob]) -> str:
    """Return the model card: what it is, its numbers, how to use it."""
    experiment = job.experiment
    adapts = LEARNERS[experiment.learner.name].load().caches_embeddings is False
    ways = f"It tells exactly {experiment.recipe.n_way} classes apart." if adapts else "It takes any number of classes."
    return CARD.format(
        name=job.name,
        learner=experiment.learner.label,
        backbone=experiment.backbone.label,
        dataset=experiment.dataset.label,
        recipe=experiment.recipe_name,
        seed=experiment.seed,
        key=job.key,
        data=read_json(job.outputs["run"])["data_hash"][:12],
        ways=ways,
        n_way=experiment.evaluate.n_way,
        n_query=experiment.evaluate.n_query,
        episode_seed=experiment.evaluate.seed,
        split=experiment.evaluate.split,
        rows="\n".join(_card_rows(evaluations)) or "| - | - | not evaluated yet | - | - |",
        folder=job.name,
    )


def _card_rows(evaluations: Sequence[EvaluateJob]) -> list[str]:
    """Return a row a target and shot, of the state that is exported (an ensemble's numbers are not its own)."""
    records = [read_json(job.outputs["json"]) for job in evaluations if job.outputs["json"].exists()]
    return [
        f"| {record['target']} | {result['shot']} | {100 * result['accuracy']:.2f} ± {100 * result['ci95']:.2f} "
        f"| {result['episodes']} | {record['batch_norm']} |"
        for record in records
        for result in record["results"]
        if result["selection"] == "single"
    ]
