"""Stage prepare: download a data set, build its store, draw its contact sheet."""

import logging
import shutil
from pathlib import Path

from filelock import FileLock

from fewshot.datasets import DATASETS
from fewshot.datasets.base import Dataset
from fewshot.datasets.contact_sheet import draw_contact_sheet
from fewshot.datasets.download import describe_files, download
from fewshot.datasets.store import Store, open_store, write_store
from fewshot.errors import DataError
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
    """Build the store of a data set, or open it if it is already complete.

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
        except DataError:
            pass  # missing or damaged: built from the source
        dataset = load_dataset(name, settings)
        files = download(name, settings, raw_dir)
        scratch = store_dir.with_name(f".{store_dir.name}.scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            provenance = {
                "files": describe_files(name, settings, files),
                "settings": settings.model_dump(mode="json"),
                "findings": dataset.findings,  # complete when the store is written
            }
            store = write_store(store_dir, name, dataset.image_shape, dataset.splits(files, scratch), provenance)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    for pair, count in store.record["duplicates"]["across"].items():
        if count:
            log.warning("%s: %d images are in both splits of %s; see `duplicates` in store.json", name, count, pair)
    return store
