"""Few-shot learning from raw archives to a results table beside the published numbers."""

from typing import Any

__version__ = "0.1.0"


def load(folder: Any) -> Any:
    """Return the classifier that `fewshot export` wrote into a folder; see `fewshot.sharing.export.Classifier`."""
    from fewshot.sharing.export import load as load_export

    return load_export(folder)
