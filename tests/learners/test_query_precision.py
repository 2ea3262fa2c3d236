"""Convolutions of query images in bfloat16: in training only, close to float32, on every device."""

import pytest
import torch

from fewshot.learners import ADAPTIVE_LEARNERS


def flattened(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


@pytest.mark.parametrize("name", ADAPTIVE_LEARNERS)
def test_the_gradient_is_close_to_that_in_full_precision_and_scores_are_the_same(
    name, small_learner, random_batch, outer_gradients
):
    full, low = small_learner(name, filters=16), small_learner(name, filters=16, query_precision="bfloat16")
    batch = random_batch(n_episodes=2)

    expected, found = flattened(outer_gradients(full, batch)), flattened(outer_gradients(low, batch))

    assert 0.9 < torch.cosine_similarity(found, expected, dim=0) < 1 - 1e-9
    assert torch.equal(low.eval().logits(batch), full.eval().logits(batch))


@pytest.mark.parametrize("batch_norm", ["transductive", "support"])
def test_devices_and_numbers_of_tasks_at_once_agree_to_rounding(
    batch_norm, small_learner, random_batch, outer_gradients, as_on
):
    learner = small_learner("maml", filters=16, query_precision="bfloat16", batch_norm=batch_norm)
    batch = random_batch(n_episodes=2)

    def gradient(at_once):
        learner.tasks_at_once = at_once
        return flattened(outer_gradients(learner, batch))

    found = [gradient(at_once=False), gradient(at_once=True)]
    as_on("accelerator")
    found.append(gradient(at_once=True))
    expected = gradient(at_once=False)

    for one in found:
        assert torch.cosine_similarity(one, expected, dim=0) > 0.98
