"""Trained models that come with this package, by name."""

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_models() -> list[str]:
    """Return the names that `fewshot.load` knows."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def shipped_folder(name: str) -> Path | None:
    """Return the export of a model that comes with this package; None if there is none of this name."""
    return SHIPPED / name if name in shipped_models() else None
