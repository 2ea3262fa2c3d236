"""Stage prepare: download a data set, build its store, draw its contact sheet."""

import logging
import shutil
from pathlib import Path

from filelock import FileLock

from fewshot.datasets import DATASETS
from fewshot.datasets.base import Dataset
from fewshot.datasets.contact_sheet import draw_contact_sheet
from fewshot.datasets.download import describe_files, download
from fewshot.datasets.store import Store, is_store, open_store, write_store
from fewshot.errors import DataError
from fewshot.progress import say
from fewshot.registry import find_part
from fewshot.settings import Settings

log = logging.getLogger(__name__)

__all__ = ["build_store", "download", "draw_contact_sheet"]


def load_dataset(name: str, settings: Settings) -> Dataset:
    """Return the data set `name` with its settings.

    Raises:
        ParamsError: if the name is unknown.
    """
    dataset: Dataset = find_part("data set", name, DATASETS).load()(settings)
    return dataset


def build_store(name: str, settings: Settings, raw_dir: Path, store_dir: Path) -> Store:
    """Open the store of a data set, after building it if it is missing or damaged.

    Args:
        name: an entry of `DATASETS`.
        settings: of the type that the entry names.
        raw_dir: folder of downloaded files.
        store_dir: folder of the store; created in one step after all checks.

    Raises:
        DataError: if the source is missing, damaged or not this data set.
        ResourceError: if there is too little disk space.
    """
    store_dir.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store_dir.with_name(f".{store_dir.name}.lock")):
        try:
            return open_store(store_dir)
        except DataError as error:
            if is_store(store_dir):
                say(f"building the store again: {str(error).rpartition('; ')[0]}")
        dataset = load_dataset(name, settings)
        files = download(name, settings, raw_dir)
        scratch = store_dir.with_name(f".{store_dir.name}.scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            provenance = {
                "files": describe_files(name, settings, files),
                "settings": settings.model_dump(mode="json"),
                **vars(dataset.tally),  # filled, like the findings, while the splits are read
                "findings": dataset.findings,
            }
            store = write_store(store_dir, name, dataset.image_shape, dataset.splits(files, scratch), provenance)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    for line in dataset.tally.lines():
        log.warning("%s: %s; see `provenance` in store.json", name, line)
    for pair, count in store.record["duplicates"]["across"].items():
        if count:
            log.warning("%s: %d images are in both splits of %s; see `duplicates` in store.json", name, count, pair)
    return store
