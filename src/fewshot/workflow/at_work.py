"""What is shown of a job: one line while it is at work, and one line with its result."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fewshot.errors import DataError
from fewshot.files import read_csv, read_json
from fewshot.progress import Progress, duration

NAME_WIDTH = 40  # of the names of jobs; longer ones move what follows to the right
DONE = {
    "download": "downloaded",
    "prepare": "prepared",
    "train": "trained",
    "evaluate": "tested",
    "report": "reported",
}


def job_label(name: str, target: str | None = None) -> str:
    """Return the name of a job; the target of an evaluation is named if it is not the data set of the training."""
    return name if target is None or name.startswith(f"{target}-") else f"{name} on {target}"


def work_line(stage: str, label: str, progress: Progress | None, waiting: str = "") -> str:
    """Return the line of a job at work.

    Args:
        stage: of the job.
        label: its name.
        progress: how far it is; None if it has not said so yet.
        waiting: what to show then.

    >>> work_line("train", "glyphs-conv4-ridge-s0", Progress("step", 30, 120, since=0.0, written=10.0, loss=0.51))
    'train     glyphs-conv4-ridge-s0  25 %  30 s to go  step 30/120  loss 0.5100'
    """
    return "  ".join([f"{stage:<8}", label, *(_progress_words(progress) if progress else [waiting])])


def _progress_words(progress: Progress) -> list[str]:
    if not progress.what:
        return [f"at work for {duration(progress.written - progress.began)}"]
    words = [
        f"{100 * progress.done / progress.total:.0f} %"
    ]  # what matters most first: a narrow terminal cuts the rest
    if progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} to go")
    words.append(f"{progress.what} {progress.done:,}/{progress.total:,}")
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.4f}")
    if progress.validation is not None:
        words.append(f"validation {_percent(progress.validation)} %")
    return words


def has_result(stage: str, files: Iterable[Path]) -> bool:
    """Return whether a finished job has something to tell: not the training of an untrained learner, for no epochs."""
    histories = [file for file in files if file.name == "history.csv" and file.exists()]
    return stage != "train" or not histories or any(map(read_csv, histories))


def result_line(stage: str, label: str, files: Iterable[Path], *, restores: bool = False, words: str = "") -> str:
    """Return the line of a finished job: what was done, and its result.

    Args:
        stage: of the job.
        label: its name.
        files: its outputs.
        restores: whether it only restored a result that was finished before.
        words: the result, if not from the files.
    """
    verb = "restored" if restores else DONE[stage]
    return f"{verb:<10} {label:<{NAME_WIDTH}}  {words or result_words(stage, files)}".rstrip()


def result_words(stage: str, files: Iterable[Path]) -> str:
    """Return the result of a finished job in a few words, from its files; "" if they are elsewhere or say nothing.

    Args:
        stage: of the job.
        files: its outputs.
    """
    by_name = {file.name: file for file in files if file.exists()}
    try:
        if stage == "train":
            return _training_words(by_name)
        if stage == "evaluate":
            return _evaluation_words([file for name, file in by_name.items() if name.endswith(".json")])
        if stage == "prepare":
            return _data_words(by_name)
    except DataError:  # whoever reads the result reports it
        return ""
    return ""


def _training_words(files: dict[str, Path]) -> str:
    if "run.json" not in files:
        return ""
    run = read_json(files["run.json"])
    history = read_csv(files["history.csv"]) if "history.csv" in files else []
    selected = [row for row in history if row["epoch"] == str(run.get("selected_epoch")) and row["validation_accuracy"]]
    words = [f"validation {_percent(float(row['validation_accuracy']))} %" for row in selected]
    if "seconds" in run:
        words.append(duration(run["seconds"]))
    return ", ".join(words)


def _evaluation_words(files: Sequence[Path]) -> str:
    return ", ".join(_accuracy_words(row) for file in files for row in read_json(file)["results"])


def _accuracy_words(row: dict[str, Any]) -> str:
    kind = "" if row["selection"] == "single" else f" {row['selection']}"
    return f"{row['shot']}-shot{kind} {_percent(row['accuracy'])} ± {_percent(row['ci95'])}"


def _data_words(files: dict[str, Path]) -> str:
    if "manifest.json" not in files:
        return ""
    splits = read_json(files["manifest.json"])["splits"].values()
    classes, images = (sum(split[what] for split in splits) for what in ("classes", "images"))
    return f"{classes:,} classes, {images:,} images"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
