"""Writes a trained learner as a self-contained folder; `fewshot.sharing.classifier` loads it again.

<folder>/weights.safetensors   the selected state
<folder>/model.json            learner, backbone, recipe and preprocessing; hashes of the weights and of this file
<folder>/README.md             model card with the results of its evaluations
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fewshot.digests import sha256_of
from fewshot.errors import FewshotError
from fewshot.experiments.experiment import Choice, Experiment
from fewshot.experiments.params import Seed
from fewshot.files import write_atomic, write_json
from fewshot.learners import LEARNERS
from fewshot.settings import Settings

FORMAT = 1

Fit = Literal["squash", "center_crop", "drawing"]
"""How a data set makes a picture square: resized as a whole; its central square; Omniglot's reduced drawing."""


class TrainedSettings(Settings):
    """Section `train` of `model.json`: the settings of the training, as in every result file."""

    dataset: str
    backbone: dict[str, Any]
    learner: dict[str, Any]
    recipe: dict[str, Any]
    seed: Seed
    weights: str | None = None
    init: dict[str, Any] | None = None


class ExportRecord(Settings):
    """The content of `model.json`."""

    format: Literal[1]
    experiment: str
    recipe: str
    variant: str
    train_key: str
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    train: TrainedSettings
    fit: Fit = "squash"
    record_sha256: str | None = None  # exports of earlier versions have none


def record_hash(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything else in `model.json`, which its `record_sha256` must be."""
    content = {name: value for name, value in record.items() if name != "record_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def export(
    experiment: Experiment,
    weights: Path,
    out: Path,
    *,
    train_key: str,
    data_hash: str,
    evaluations: Sequence[Mapping[str, Any]],
) -> None:
    """Write the export of a trained learner; the same input gives byte-identical files.

    Args:
        experiment: what was trained.
        weights: safetensors file of its selected state.
        out: folder to write; created if missing.
        train_key: key of the training, for the card and the record.
        data_hash: content hash of the data it was trained on, for the card.
        evaluations: contents of its evaluation files (`<target>.json`), for the card.

    Raises:
        FewshotError: if the folder cannot be written.
    """
    record = {
        "format": FORMAT,
        "experiment": experiment.name,
        "recipe": experiment.recipe_name,
        "variant": experiment.variant,
        "train_key": train_key,
        "weights_sha256": sha256_of(weights),
        "train": experiment.train_settings(),
        "fit": fit_of(experiment.dataset),
    }
    card = _card(experiment, train_key, data_hash, evaluations)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "weights.safetensors", weights.read_bytes())
        write_atomic(out / "README.md", card.encode())
        write_json(out / "model.json", {**record, "record_sha256": record_hash(record)})
    except OSError as error:
        raise FewshotError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None


def fit_of(dataset: Choice) -> Fit:
    """Return how a data set makes its pictures square."""
    if dataset.name == "omniglot":
        return "drawing"
    return "center_crop" if dataset.settings.get("resize") == "center_crop" else "squash"


CARD = """# {name}

{learner} on {backbone}, trained on {dataset} with the recipe {recipe}, seed {seed} (training key {key}, data
{data}). {ways}

{n_way}-way accuracy in %, ± 95 % interval over test episodes with {n_query} queries per class (episode seed
{episode_seed}, split {split}):

| target | shot | accuracy | episodes | batch norm |
| --- | --- | --- | --- | --- |
{rows}
{seen}
```python
import fewshot

model = fewshot.load("{name}")
labels = model.classify(support_images, support_labels, query_images)
```

All settings are in `model.json`. The data set's licence applies to what was learned from it.
"""


def _card(experiment: Experiment, train_key: str, data_hash: str, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return the model card: what the learner is, its results, how to use it."""
    takes_any = LEARNERS[experiment.learner.name].load().caches_embeddings
    ways = "any number of classes" if takes_any else f"exactly {experiment.recipe.n_way} classes"
    return CARD.format(
        name=experiment.name,
        learner=experiment.learner.label,
        backbone=experiment.backbone.label,
        dataset=experiment.dataset.label,
        recipe=experiment.recipe_name,
        seed=experiment.seed,
        key=train_key,
        data=data_hash[:12],
        ways=f"It distinguishes {ways}.",
        n_way=experiment.evaluate.n_way,
        n_query=experiment.evaluate.n_query,
        episode_seed=experiment.evaluate.seed,
        split=experiment.evaluate.split,
        rows="\n".join(_card_rows(evaluations)) or "| - | - | not evaluated yet | - | - |",
        seen="".join(f"\nOn {target}, {text}.\n" for target, text in _seen_classes(experiment, evaluations)),
    )


def _seen_classes(experiment: Experiment, evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the targets with classes of the training among the tested ones, and how many, in words."""
    evaluated = {evaluation["target"] for evaluation in evaluations}
    found = {choice.label: experiment.seen_classes(choice).text for choice in experiment.targets}
    return [(target, seen) for target, seen in found.items() if seen and target in evaluated]


def _card_rows(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a row per target and shot for the exported state; results of an ensemble are not its own."""
    return [
        f"| {evaluation['target']} | {result['shot']} | {100 * result['accuracy']:.2f} ± {100 * result['ci95']:.2f} "
        f"| {result['episodes']} | {evaluation['batch_norm']} |"
        for evaluation in evaluations
        for result in evaluation["results"]
        if result["selection"] == "single"
    ]
