"""Few-shot learning, from raw archives to a table of results next to the published numbers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fewshot.sharing.classifier import Classifier, Device

__version__ = "0.1.0"

# Modules whose code cannot affect results (workflow/identity.py).
NEUTRAL = ("__main__", "cli", "digests", "doctor", "errors", "paths", "progress", "registry", "settings")


def load(folder: "str | Path", device: "Device" = None) -> "Classifier":
    """Load a classifier that `fewshot export` wrote or that comes with this package, such as "cifar_fs-conv4".

    No code in the folder is executed.

    Args:
        folder: of the export; or, if there is no such folder, the name of a model that comes with this package.
        device: where to compute, such as "cpu" or "cuda:1"; None: a GPU if there is one.

    Returns:
        A classifier; its `classify(support, labels, query)` labels images, given a few labelled ones.

    Raises:
        CheckpointError: if the folder is not an export, or is damaged.
        ResourceError: if the device cannot be used.
    """
    from fewshot.sharing.classifier import load as load_classifier

    return load_classifier(folder, device)
