"""Episodes: the classes and images of a task, as a pure function of (seed, split, index); and batches of episodes."""

from typing import TYPE_CHECKING

from fewshot.episodes.form import EpisodeForm
from fewshot.registry import lazy_exports

if TYPE_CHECKING:
    from fewshot.episodes.batch import EpisodeBatch, gather_batch
    from fewshot.episodes.draw import EpisodeIndices, draw_episodes
    from fewshot.episodes.minibatch import ImageBatch

__all__ = ["EpisodeBatch", "EpisodeForm", "EpisodeIndices", "ImageBatch", "draw_episodes", "gather_batch"]

__getattr__ = lazy_exports(
    __name__,
    {
        "EpisodeBatch": "fewshot.episodes.batch",
        "EpisodeIndices": "fewshot.episodes.draw",
        "ImageBatch": "fewshot.episodes.minibatch",
        "draw_episodes": "fewshot.episodes.draw",
        "gather_batch": "fewshot.episodes.batch",
    },
)


def __dir__() -> list[str]:
    return __all__
