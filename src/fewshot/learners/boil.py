"""BOIL (Oh et al., ICLR 2021): MAML whose inner loop updates only the backbone, so that its features must change.

The paper sets the head's inner learning rate to zero; here the head is excluded from the inner loop, which is the same.
"""

from fewshot.learners.maml import MAML
from fewshot.learners.settings import BOILSettings


class BOIL(MAML):
    """Body only update in the inner loop; same arguments as `MAML`."""

    settings_type = BOILSettings
    settings: BOILSettings

    def choose_adaptable(self) -> list[str]:
        """Return the names of the backbone's parameters except those of batch norm."""
        return [name for name in super().choose_adaptable() if name.startswith("backbone.")]
