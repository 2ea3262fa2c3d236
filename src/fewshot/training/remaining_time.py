"""How long a training run will take, printed once, after its first steps."""

import time

from fewshot.progress import duration, say

WARM_UP_STEPS = 5  # they compile kernels and fill caches, so they are not timed
TIMED_STEPS = 10


class RemainingTime:
    """Times the first steps of this process and prints one estimate.

    Args:
        name: of the experiment.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0
        self.warm = 0.0

    def step_done(self, steps_left: int) -> None:
        """Count a step; print the estimate once enough steps have been timed."""
        self.steps += 1
        if self.steps == WARM_UP_STEPS:
            self.warm = time.monotonic()
        elif self.steps == WARM_UP_STEPS + TIMED_STEPS:
            seconds_per_step = (time.monotonic() - self.warm) / TIMED_STEPS
            say(f"{self.name}: about {duration(seconds_per_step * steps_left)} to go, validation not included")
