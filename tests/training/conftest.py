"""What the tests of trainings share: something that happens during an outer step."""

import signal

import pytest

from fewshot.training.outer_step import training_batch


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that makes something happen once, during a given outer step (from 0)."""

    def arrange(number, happening):
        def drawn(experiment, split, step, share):
            if step == number and waiting.pop("here", False):
                happening()
            return training_batch(experiment, split, step, share)

        waiting = {"here": True}
        monkeypatch.setattr("fewshot.training.outer_step.training_batch", drawn)

    return arrange


@pytest.fixture
def stop_at_step(at_step):
    """Return a function that sends SIGTERM to this process once, during a given outer step (from 0)."""
    return lambda number: at_step(number, lambda: signal.raise_signal(signal.SIGTERM))
