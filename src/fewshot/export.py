"""A trained learner as a folder that stands by itself: weights, settings, a card; and its way back into a program.

<folder>/weights.safetensors   the selected state
<folder>/model.json            what to build: learner, backbone, recipe, image preparation
<folder>/README.md             model card with the numbers of its evaluations
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.errors import CheckpointError, DataError
from fewshot.evaluate import load_learners
from fewshot.experiments import Choice, Experiment
from fewshot.files import read_json, write_json
from fewshot.params import Evaluate, Recipe, check
from fewshot.plan import EvaluateJob, TrainJob
from fewshot.train import preprocess_of

FORMAT = 1


class Classifier:
    """A trained few-shot classifier for images as they come.

    Args:
        experiment: what was trained.
        folder: holds weights.safetensors.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment = experiment
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learner = load_learners(experiment, folder, self.device)["single"][0]
        self.preprocess = preprocess_of(experiment)

    @torch.no_grad()
    def scores(self, support: Sequence[Any], support_labels: Sequence[int], query: Sequence[Any]) -> Tensor:
        """Score query images against the classes of a few labelled ones.

        Args:
            support: labelled images, PIL images or uint8 arrays (H, W, 3), of any size.
            support_labels: class of each, integers 0 .. M - 1, every class at least once.
            query: images to classify.

        Returns:
            (number of query images, M) float32; larger is more likely.

        Raises:
            DataError: if images and labels do not go together.
        """
        labels = torch.as_tensor(list(support_labels), dtype=torch.int64)
        if len(labels) != len(support) or len(labels) == 0:
            raise DataError(f"{len(support)} support images but {len(labels)} labels; give one label an image")
        n_way = int(labels.max()) + 1
        missing = sorted(set(range(n_way)) - set(labels.tolist()))
        if missing or int(labels.min()) < 0:
            raise DataError(f"labels must be 0 .. {n_way - 1}, each at least once; missing: {missing}")
        if not self.learner.caches_embeddings:
            raise DataError(f"{self.experiment.learner.label} adapts to whole episodes; use .learner.logits(batch)")
        features = [self.learner.embed(self._prepared(images))[None] for images in (support, query)]
        return self.learner.classify(features[0], labels[None].to(self.device), features[1], n_way)[0].cpu()

    def classify(self, support: Sequence[Any], support_labels: Sequence[int], query: Sequence[Any]) -> list[int]:
        """Return the most likely class of each query image; arguments as in `scores`."""
        return self.scores(support, support_labels, query).argmax(1).tolist()

    def _prepared(self, images: Sequence[Any]) -> Tensor:
        """Return (N, 3, H, W) float32 on the device."""
        arrays = [np.asarray(image.convert("RGB") if hasattr(image, "convert") else image) for image in images]
        prepared = [self.preprocess.images(torch.from_numpy(array.copy())[None]) for array in arrays]
        return torch.cat(prepared).to(self.device)


def load(folder: str | Path) -> Classifier:
    """Return the classifier that `fewshot export` wrote.

    Raises:
        CheckpointError: if the folder is not an export, or its weights do not fit.
    """
    folder = Path(folder)
    try:
        record = read_json(folder / "model.json")
    except DataError:
        raise CheckpointError(f"{folder}: no export; 'fewshot export <experiment>' writes one") from None
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: an export of format {record.get('format')}, this program reads {FORMAT}")
    return Classifier(_experiment(record), folder)


def _experiment(record: dict[str, Any]) -> Experiment:
    """Return the experiment that an export describes."""
    train = record["train"]
    choices = {kind: {k: v for k, v in train[kind].items() if k != "name"} for kind in ("backbone", "learner")}
    recipe = check(Recipe, train["recipe"], where="model.json: recipe")
    return Experiment(
        dataset=Choice(train["dataset"], train["dataset"], {}),
        backbone=Choice(train["backbone"]["name"], train["backbone"]["name"], choices["backbone"]),
        learner=Choice(train["learner"]["name"], train["learner"]["name"], choices["learner"]),
        recipe_name=record["recipe"],
        recipe=recipe,
        variant=record["variant"],
        seed=train["seed"],
        image_size=train["recipe"]["image_size"],
        evaluate=Evaluate(),
        targets=(),
    )


def export(job: TrainJob, evaluations: Sequence[EvaluateJob], out: Path) -> None:
    """Write the export of a finished training.

    Raises:
        CheckpointError: if the training is not finished.
    """
    if not job.outputs["weights"].exists():
        raise CheckpointError(f"{job.name} is not trained yet; run: snakemake --cores 1 {job.name}")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(job.outputs["weights"], out / "weights.safetensors")
    experiment = job.experiment
    record = {
        "format": FORMAT,
        "experiment": experiment.name,
        "recipe": experiment.recipe_name,
        "variant": experiment.variant,
        "train_key": job.key,
        "train": job.settings,
    }
    write_json(out / "model.json", record)
    (out / "README.md").write_text(_card(job, evaluations), encoding="utf-8")


def _card(job: TrainJob, evaluations: Sequence[EvaluateJob]) -> str:
    """Return the model card: what it is, its numbers, how to use it."""
    run = read_json(job.outputs["run"])
    rows = [
        f"| {done.target} | {result['shot']} | {result['selection']} | {100 * result['accuracy']:.2f} ± "
        f"{100 * result['ci95']:.2f} | {result['episodes']} |"
        for done in evaluations
        if done.outputs["json"].exists()
        for result in read_json(done.outputs["json"])["results"]
    ]
    experiment = job.experiment
    return "\n".join(
        [
            f"# {job.name}",
            "",
            f"{experiment.learner.label} on {experiment.backbone.label}, trained on {experiment.dataset.label} "
            f"with the recipe {experiment.recipe_name}, seed {experiment.seed} (training key {job.key}, data "
            f"{run['data_hash'][:12]}).",
            "",
            f"{experiment.evaluate.n_way}-way accuracy in %, ± 95 % interval over test episodes:",
            "",
            "| target | shot | model | accuracy | episodes |",
            "| --- | --- | --- | --- | --- |",
            *(rows or ["| - | - | - | not evaluated yet | - |"]),
            "",
            "```python",
            "import fewshot",
            'model = fewshot.load("this folder")',
            "labels = model.classify(support_images, support_labels, query_images)",
            "```",
            "",
            "All settings stand in `model.json`. The data set's licence holds for what was learned from it.",
            "",
        ]
    )
