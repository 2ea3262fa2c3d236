"""Gradient-based learners against numbers computed with the programs published with CxGrad, MAML++ and ALFA.

Each file describes its weights and data by integer rules, so that only results are stored. All in float64.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot.episodes.batch import EpisodeBatch
from fewshot.learners import build_learner
from fewshot.learners.base import LearnerContext
from fewshot.learners.inner_loop import split_tasks

pytestmark = pytest.mark.oracle

FOLDER = Path(os.environ.get("FEWSHOT_ORACLE", Path(__file__).parents[1] / "references")) / "cxgrad"
NAMES = {"maml": "maml", "cxgrad": "cxgrad", "maml++": "mamlpp", "alfa+maml": "alfa"}
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def files(program):
    return sorted(FOLDER.glob(f"{program}_*.json"))


def records(program):
    """Yield (file, record number) of every record in every file of a program."""
    for path in files(program):
        for number, record in enumerate(json.loads(path.read_text())["records"]):
            order = "second" if record["second_order"] else "first"
            name = [record["method"].partition(" ")[0], path.stem, f"{record['inner_steps']}steps", f"{order}-order"]
            name += [f"epoch{record[key]}" for key in ("epoch",) if key in record]
            yield pytest.param(path, number, id="-".join(name))


def test_reference_files_of_every_program_are_found():
    assert all(files(program) for program in ("cxgrad", "mamlpp", "alfa"))


@pytest.mark.parametrize(("path", "number"), [*records("cxgrad"), *records("mamlpp"), *records("alfa")])
def test_adaptation_losses_and_gradients_equal_the_published_program(path, number):
    oracle = json.loads(path.read_text())
    case, record = oracle["case"], oracle["records"][number]
    learner = oracle_learner(case, record, bias="conv0.conv.bias" in str(oracle["parameters"]))
    batch = oracle_batch(case, case["dseed"])
    assert float(batch.support_images.sum()) == pytest.approx(oracle["input_check"]["support_sum"], rel=1e-12)
    step = record.get("epoch", 0)

    for t, task in enumerate(split_tasks(batch)):
        adaptation = list(learner.adapt(task, step))
        final = adaptation[-1]
        for inner, expected in zip(adaptation, record["fast_weights"][t], strict=True):
            moved = [tensor for name, tensor in inner.updated.items() if name in learner.adapted]
            assert_summaries(moved, expected.values())
            if "context_and_gamma" in record:
                assert_context(learner, adaptation, inner.index, record["context_and_gamma"][t])
        assert_losses(learner, task, adaptation, step, record["losses_in_call_order"][t])
        np.testing.assert_allclose(
            learner.query_logits(task, final.updated, final.index).detach(), record["query_logits"][t], **CLOSE
        )

    output = learner.loss(batch, step)
    output.loss.backward()
    np.testing.assert_allclose(output.loss.item(), record["outer_loss"], **CLOSE)
    assert output.accuracy.item() == pytest.approx(record["accuracy"], abs=1e-6)
    assert_summaries([parameter.grad for parameter in learner.parameters()], record["outer_grads"].values())


@pytest.mark.parametrize("method", ["maml", "cxgrad"])
@pytest.mark.parametrize("path", files("cxgrad"), ids=lambda path: path.stem)
def test_training_with_adam_equals_the_published_program(path, method):
    oracle = json.loads(path.read_text())
    case, trajectory = oracle["case"], oracle["adam_trajectory"][method]
    learner = oracle_learner(case, {"method": method, "inner_steps": 5, "second_order": True}, bias=False)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)

    for seed, expected in zip(trajectory["data_seeds"], trajectory["outer_loss"], strict=True):
        optimizer.zero_grad()
        loss = learner.loss(oracle_batch(case, seed), 0).loss
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(loss.item(), expected, **CLOSE)

    assert_summaries(list(learner.parameters()), trajectory["final_params"].values())


@pytest.mark.parametrize("path", files("cxgrad"), ids=lambda path: path.stem)
def test_float32_is_close_to_the_published_program(path):
    """Near-ties in the max-pool flip at 84 pixels, so only small images must agree to 1e-4."""
    oracle = json.loads(path.read_text())
    case = oracle["case"]
    tolerance = 1e-4 if case["size"] < 84 else 0.1
    for record in oracle["records"]:
        learner = oracle_learner(case, record, bias=False).float()
        loss = learner.loss(oracle_batch(case, case["dseed"], torch.float32), 0).loss
        assert loss.item() == pytest.approx(record["outer_loss"], abs=tolerance)


def assert_losses(learner, task, adaptation, epoch, expected):
    """Compare every cross-entropy in the order of the original program's calls."""
    if len(adaptation) > 1 and learner.query_importance(epoch)[0] > 0:
        found = [loss for inner in adaptation for loss in (inner.loss, query_loss(learner, task, inner))]
    else:
        found = [inner.loss for inner in adaptation] + [query_loss(learner, task, adaptation[-1])]
    if "context" in adaptation[0].used:
        found.insert(0, context_loss(learner, task))
    np.testing.assert_allclose([loss.item() for loss in found], expected, **CLOSE)


def context_loss(learner, task):
    """Return the support loss from which CxGrad takes its first context step: at a context of zeros."""
    start = dict(learner.network.named_parameters()) | {"context": torch.zeros(learner.settings.context_size).double()}
    return torch.nn.functional.cross_entropy(
        learner.support_logits(task, learner.rescale(start), 0), task.support_labels
    )


def query_loss(learner, task, inner):
    logits = learner.query_logits(task, inner.updated, inner.index)
    return torch.nn.functional.cross_entropy(logits, task.query_labels)


def assert_context(learner, adaptation, index, expected):
    context, gamma = adaptation[index].used["context"], learner.generator(adaptation[index].used["context"])
    assert_summaries([context], [expected[index]["context"]])
    np.testing.assert_allclose(gamma.detach(), expected[index]["gamma"], **CLOSE)


def assert_summaries(tensors, summaries):
    """Compare tensors with the norms, sums, projections and first entries stored in the files."""
    for tensor, summary in zip(tensors, summaries, strict=True):
        x = tensor.detach().numpy().ravel()
        found = {
            "norm": np.linalg.norm(x),
            "sum": x.sum(),
            "proj": x @ np.cos(0.7 * np.arange(x.size) + 0.3),
            "head": x[:6],
        }
        for key, value in summary.items():
            if key == "head":  # the programs store one more rate than steps, never used
                value, unused = value[: x.size], value[x.size :]
                assert not any(unused)
            np.testing.assert_allclose(found[key], value, **CLOSE)


def oracle_learner(case, record, bias):
    """Return the learner of a record with weights from the file's rule."""
    name = NAMES[record["method"].partition(" ")[0]]
    settings = {
        "inner_steps": record["inner_steps"],
        "second_order": record["second_order"],
        "inner_learning_rate": 0.01,
    }
    settings |= {"context_size": case["ctx"]} if name == "cxgrad" else {}
    learner = build_learner(
        name,
        backbone="conv4_maml",
        backbone_settings={
            "filters": case["filters"],
            "pooling": "max" if case["max_pooling"] else "stride",
            "bias": bias,
        },
        context=LearnerContext(n_way=case["way"], image_size=case["size"], steps_per_epoch=1),
        **settings,
    ).double()
    with torch.no_grad():
        for k, (parameter_name, parameter) in enumerate(learner.named_parameters()):
            parameter.copy_(oracle_weight(parameter_name, parameter, k, case["wseed"]))
    return learner


def oracle_weight(name, parameter, k, seed):
    """Return the weight of the rule: u is a fixed integer sequence, scaled by what the parameter is."""
    i = np.arange(parameter.numel(), dtype=np.int64)
    u = torch.from_numpy(((7 * i * i + 31 * i + 17 * k + 13 * seed) % 1009) / 504 - 1).reshape(parameter.shape)
    if "rates" in name or "decays" in name:
        initial = 5e-6 if "decays" in name else 0.01
        return initial * (1 + 0.3 * u)
    if "norm.weight" in name:
        return 1 + 0.2 * u
    if parameter.ndim > 1 and "norm" not in name:
        return math.sqrt(3 / parameter[0].numel()) * u
    return 0.1 * u


def oracle_batch(case, seed, dtype=torch.float64):
    """Return the episodes of the file's rule: noisy copies of one random prototype per class."""
    rng = np.random.RandomState(seed)
    way, shot, query, size = case["way"], case["shot"], case["query"], case["size"]
    support, queries = [], []
    for _ in range(case["tasks"]):
        prototype = rng.random_sample((way, 1, 3, size, size))
        noise = rng.random_sample((way, shot + query, 3, size, size))
        images = torch.from_numpy(0.6 * prototype + 0.4 * noise).to(dtype)
        support.append(images[:, :shot].flatten(0, 1))
        queries.append(images[:, shot:].flatten(0, 1))
    labels = torch.arange(way)
    return EpisodeBatch(
        torch.stack(support),
        labels.repeat_interleave(shot).expand(case["tasks"], -1),
        torch.stack(queries),
        labels.repeat_interleave(query).expand(case["tasks"], -1),
        torch.arange(case["tasks"]),
        way,
    )
