"""The form of an episode: numbers of classes, support and query images. Defined without torch, for the plan."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodeForm:
    """Ways, shots and queries of an episode.

    Attributes:
        n_way: classes per episode (M).
        n_shot: support images per class.
        n_query: query images per class.
    """

    n_way: int
    n_shot: int
    n_query: int

    @property
    def images_per_class(self) -> int:
        """Images that an episode needs from each of its classes."""
        return self.n_shot + self.n_query

    def __str__(self) -> str:
        return f"{self.n_way}-way {self.n_shot}-shot with {self.n_query} queries per class"
