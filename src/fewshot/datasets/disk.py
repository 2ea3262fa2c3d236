"""Free disk space, checked before it runs out."""

from fewshot.errors import ResourceError


def require_space(what: str, needed: int, free: int) -> None:
    """Raise `ResourceError` if `what` needs more bytes than are free."""
    if needed > free:
        raise ResourceError(
            f"{what} needs {needed / 1e9:.2f} GB of disk space, {max(free, 0) / 1e9:.2f} GB are free; free some space"
        )
