"""BOIL (Oh et al., ICLR 2021): MAML whose inner loop moves the backbone only, so that its features must change.

The paper sets the head's inner rate to zero; here the head is left out of the inner loop, which is the same.
"""

from fewshot.learners.maml import MAML


class BOIL(MAML):
    """Body only update in the inner loop."""

    def choose_adapted(self) -> list[str]:
        """Return the names of the backbone's parameters but those of batch norm."""
        return [name for name in super().choose_adapted() if name.startswith("backbone.")]
