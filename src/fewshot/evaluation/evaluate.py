"""Stage evaluate: any trained learner on the frozen episodes of one target, at all shots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewshot.datasets.store import SplitStore
from fewshot.episodes.draw import EpisodeIndices
from fewshot.episodes.frozen import episodes_hash
from fewshot.errors import CheckpointError
from fewshot.evaluation.calibration import calibration_bins
from fewshot.evaluation.diagnose import diagnose_episodes
from fewshot.evaluation.embedding_map import embedding_map, mapped_rows
from fewshot.evaluation.interval import mean_ci95
from fewshot.evaluation.scoring import Scores, embed_rows, score_episodes
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.experiment import Experiment
from fewshot.experiments.precision import reproducible_arithmetic
from fewshot.files import write_json, write_npz
from fewshot.learners.base import Learner
from fewshot.progress import report, say
from fewshot.weights.checkpoint import load_weights

SHEET_EPISODES = 4
DIAGNOSED_EPISODES = 100


def load_learners(experiment: Experiment, train_dir: Path, device: torch.device) -> dict[str, list[Learner]]:
    """Return the trained models by selection: "single" (the best state) and, if several states were kept, "ensemble".

    They are changed as the experiment's variant says.

    Raises:
        CheckpointError: if a weights file is missing, damaged or from a different model.
    """
    files = {"single": [train_dir / "weights.safetensors"]}
    if (expected := ensemble_size(experiment)) > 0:
        files["ensemble"] = sorted((train_dir / "ensemble").glob("*.safetensors"))
        if len(files["ensemble"]) != expected:
            raise CheckpointError(
                f"{train_dir / 'ensemble'}: contains {len(files['ensemble'])} of {expected} states; delete {train_dir} "
                "and rerun: it is restored or recomputed"
            )
    found: dict[str, list[Learner]] = {}
    for selection, paths in files.items():
        found[selection] = []
        for path in paths:
            learner = initial_learner(experiment)
            load_weights(path, learner)
            found[selection].append(learner.for_evaluation(experiment.changes).to(device).eval())
    return found


def ensemble_size(experiment: Experiment) -> int:
    """Return how many states of a training run form its ensemble; 0 if only the best state is kept."""
    kept = min(experiment.recipe.keep_checkpoints, experiment.recipe.epochs)
    return kept if experiment.recipe.keep_checkpoints > 1 and experiment.weights is None else 0


def evaluate(
    experiment: Experiment,
    learners: Mapping[str, Sequence[Learner]],
    split: SplitStore,
    episodes: EpisodeIndices,
    device: torch.device,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Score every selection at every shot.

    Args:
        experiment: the experiment, which defines shots and preprocessing.
        learners: models by selection, from `load_learners`.
        split: images of the target.
        episodes: the frozen list.
        device: where the models are.

    Returns:
        The rows of "results" in the evaluation file, and the arrays stored next to it (named in docs/protocol.md).
    """
    reproducible_arithmetic(experiment.recipe.precision)
    preprocess = preprocessing(experiment)
    rows, arrays = [], {"episode_ids": episodes.ids, "episode_classes": _compact(episodes.classes)}
    for selection, models in learners.items():
        scores = score_episodes(
            *(models, split, episodes, experiment.shots, preprocess, device),
            augmented_support=experiment.changes.augmented_support,
            report=report,
        )
        for shot, scored in scores.items():
            row = {**result_row(shot, selection, scored), "episodes_hash": episodes_hash(episodes.at(shot))}
            rows.append(row)
            say(f"{experiment.name}: {shot}-shot {selection} {row['accuracy']:.2%} +- {row['ci95']:.2%}")
            arrays[f"accuracy/{selection}/{shot}shot"] = scored.accuracies
            if selection == "single":
                arrays.update(_sheet(split, episodes, shot, scored))
                arrays[f"predictions/{shot}shot"] = _compact(scored.predictions)
                bins = calibration_bins(scored.confidences, scored.predictions == scored.labels)
                arrays.update({f"calibration/{shot}shot/{k}": v for k, v in bins.items()})
                arrays.update({f"certificate/{shot}shot/{k}": v for k, v in scored.certificates.items()})
    best = learners["single"][0]
    diagnosed, shot = episodes.take(slice(DIAGNOSED_EPISODES)), max(experiment.shots)
    found = diagnose_episodes(best, split, diagnosed, shot, preprocess, device)
    arrays.update({f"diagnostics/{name}": values for name, values in found.items()})
    if best.caches_embeddings:
        shown, labels = mapped_rows(split.class_starts, split.class_sizes)
        embeddings = embed_rows(best, split, shown, preprocess, device)
        arrays.update(embedding_map(embeddings.cpu().numpy(), labels))
    return rows, arrays


def _compact(numbers: np.ndarray) -> np.ndarray:
    """Return non-negative integers in the smallest type that holds them all."""
    return numbers.astype(np.min_scalar_type(int(numbers.max())))


def result_row(shot: int, selection: str, scores: Scores) -> dict[str, Any]:
    """Return the row of the evaluation file for one shot and selection."""
    accuracy, ci95 = mean_ci95(scores.accuracies)
    converged, residual = scores.certificates.get("converged"), scores.certificates.get("kkt_residual")
    return {
        "shot": shot,
        "selection": selection,
        "accuracy": accuracy,
        "ci95": ci95,
        "episodes": len(scores.accuracies),
        "unconverged": 0 if converged is None else int((~converged.astype(bool)).sum()),
        "max_kkt_residual": None if residual is None else float(residual.max()),
    }


def _sheet(split: SplitStore, episodes: EpisodeIndices, shot: int, scores: Scores) -> dict[str, np.ndarray]:
    """Return rows, labels and predictions of the first episodes, for the figure of correct and wrong predictions."""
    first = episodes.take(slice(SHEET_EPISODES))
    support_rows, query_rows = first.rows(split.class_starts, shot)
    return {
        f"sheet/{shot}shot/support_rows": support_rows,
        f"sheet/{shot}shot/query_rows": query_rows,
        f"sheet/{shot}shot/query_labels": np.broadcast_to(scores.labels, query_rows.shape),
        f"sheet/{shot}shot/predictions": scores.predictions[: len(query_rows)],
    }


def evaluation_record(
    experiment: Experiment,
    *,
    key: str,
    train_key: str,
    settings: Mapping[str, Any],
    data_hash: str,
    episodes: EpisodeIndices,
    batch_norm: str,
    rows: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of `<target>.json`: the numbers and everything they depend on, without times, paths or labels.

    Labels, such as the experiment's name, are those of the one who reads it: the result may be used under several.
    """
    return {
        "key": key,
        "train_key": train_key,
        "train": experiment.train_settings(),
        "target": settings["target"],
        "split": settings["split"],
        "data_hash": data_hash,
        "episodes_hash": episodes_hash(episodes),
        "n_way": settings["n_way"],
        "n_query": settings["n_query"],
        "episodes": settings["episodes"],
        "evaluate_seed": settings["seed"],
        "batch_norm": batch_norm,
        "changes": settings.get("changes", {}),
        "versions": dict(versions),
        "results": list(rows),
    }


def write_evaluation(out: Path, target: str, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `<target>.npz` and then `<target>.json`; the folder is created if it was deleted meanwhile."""
    out.mkdir(parents=True, exist_ok=True)
    write_npz(out / f"{target}.npz", arrays)
    write_json(out / f"{target}.json", record)
