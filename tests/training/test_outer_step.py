"""What an outer step does between the backward passes and the optimiser's step."""

import torch

from fewshot.experiments.build import initial_learner
from fewshot.training.outer_step import OuterStep


def test_gradients_are_limited_after_they_are_summed(tiny_experiment, tiny_store):
    """With SGD at rate 1, no weight of the network moves further than the bound; the learned rates may."""
    recipe = {"meta_batch": 2, "optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    moved = {}
    for bound in (None, 1e-4):
        experiment = tiny_experiment(
            "mamlpp", "conv4_maml", recipe={**recipe, "nesterov": False}, **{"learner.clamp_outer_gradient": bound}
        )
        learner = initial_learner(experiment)
        before = [weight.clone() for weight in learner.network.parameters()]
        OuterStep(experiment, tiny_store.split("train"), learner).take(0)
        pairs = zip(learner.network.parameters(), before, strict=True)
        moved[bound] = max((after - weight).abs().max().item() for after, weight in pairs)

    assert moved[None] > 1e-2
    assert torch.isclose(torch.tensor(moved[1e-4]), torch.tensor(1e-4), rtol=1e-2)
