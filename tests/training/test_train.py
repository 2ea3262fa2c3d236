"""The training loop: exact resume from any step, model selection, schedule, and clear errors."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fewshot.episodes.batch import gather_batch
from fewshot.episodes.draw import draw_episodes
from fewshot.errors import CheckpointError, DataError, NumericalError
from fewshot.experiments.build import initial_learner, preprocessing
from fewshot.experiments.params import Recipe
from fewshot.experiments.precision import FLAGS, as_evaluated
from fewshot.learners.episodic import smoothed_cross_entropy
from fewshot.training.history import COLUMNS
from fewshot.training.outer_step import OuterStep, rate_multiplier, training_batch
from fewshot.training.selection import publish
from fewshot.training.state import Checkpoints
from fewshot.training.stop_signals import Interrupted
from fewshot.training.train import train
from fewshot.weights.checkpoint import load_checkpoint, load_weights, save_checkpoint
from fewshot.workflow.plan import load_plan

NEVER = math.inf
SHIPPED = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def run(tiny_store, tmp_path):
    """Return a function that trains in the folders of a `name` and returns the folder of results."""

    def train_in(experiment, name="run", checkpoint_seconds=NEVER):
        out, checkpoints = tmp_path / name / "out", tmp_path / name / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        out.mkdir(exist_ok=True)
        train(experiment, tiny_store, out, Checkpoints(checkpoints, checkpoint_seconds))
        return out

    return train_in


def fail():
    raise RuntimeError("killed")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def history(out):
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


INNER_GRADIENTS = {"episodes": 6, "n_shot": 2, "n_query": 3, "inner_gradients": 4}


@pytest.mark.parametrize(("learner", "frozen"), [("maml", ""), ("anil", "1 2 3 4"), ("boil", "head"), ("cxgrad", "")])
def test_inner_gradients_of_validation_episodes_are_recorded(tiny_experiment, tiny_store, run, learner, frozen):
    recipe = {"epochs": 2, "steps_per_epoch": 2}
    without = run(tiny_experiment(learner, "conv4_maml", recipe=recipe), "without")
    experiment = tiny_experiment(learner, "conv4_maml", recipe={**recipe, "validation": INNER_GRADIENTS})
    out = run(experiment, "with")

    assert (out / "weights.safetensors").read_bytes() == (without / "weights.safetensors").read_bytes()
    trained, split = initial_learner(experiment).eval(), tiny_store.split("validation")
    load_weights(out / "weights.safetensors", trained)
    form = experiment.recipe.validation_form
    episodes = draw_episodes(experiment.seed, "validation", np.arange(4), form, split.class_sizes)
    batch = preprocessing(experiment)(gather_batch(split.images, split.class_starts, episodes, 2), training=False)
    norms = np.median(trained.diagnose(batch)["gradient_norm"].mean(1), axis=0)
    expected = {f"gradient_norm_{layer}": norm for layer, norm in zip((1, 2, 3, 4, "head"), norms, strict=True)}
    selected = max(history(out), key=lambda row: float(row["validation_accuracy"]))
    found = {name: float(value or "nan") for name, value in selected.items() if name.startswith("gradient")}
    assert found == pytest.approx(expected, nan_ok=True)
    assert [name.removeprefix("gradient_norm_") for name in found if math.isnan(found[name])] == frozen.split()


def test_learners_without_an_inner_loop_have_no_inner_gradients(tiny_experiment, run):
    out = run(tiny_experiment("prototype", recipe={"validation": INNER_GRADIENTS}))
    assert tuple(history(out)[0]) == COLUMNS


LEARNERS = [("prototype", "conv4"), ("ridge", "r2d2"), ("maml", "conv4_maml")]


@pytest.mark.parametrize("step", [0, 3, 5, 11])
def test_a_stopped_and_resumed_run_is_byte_identical(step, tiny_experiment, run, stop_at_step):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 2})
    whole = run(experiment, "whole")
    stop_at_step(step)

    with pytest.raises(Interrupted, match=f"SIGTERM: stopped after step {step + 1}"):
        run(experiment, "stopped")
    resumed = run(experiment, "stopped")

    assert files(resumed) == files(whole)


def test_the_time_of_a_training_includes_the_runs_that_were_stopped(
    tiny_experiment, tiny_store, tmp_path, stop_at_step
):
    experiment, checkpoints = tiny_experiment(), Checkpoints(tmp_path / "checkpoints")
    stop_at_step(5)
    before = time.monotonic()
    with pytest.raises(Interrupted):
        train(experiment, tiny_store, tmp_path, checkpoints)
    stopped = load_checkpoint(checkpoints.file)["seconds"]

    facts = train(experiment, tiny_store, tmp_path, checkpoints)

    assert 0 < stopped < facts["seconds"] <= time.monotonic() - before


@pytest.mark.parametrize(("learner", "backbone"), LEARNERS)
def test_every_type_of_learner_resumes_exactly(learner, backbone, tiny_experiment, run, stop_at_step):
    experiment = tiny_experiment(learner, backbone, recipe={"augmentation": {"crop_padding": 2, "flip": True}})
    whole = run(experiment, "whole")
    stop_at_step(5)

    with pytest.raises(Interrupted):
        run(experiment, "stopped")

    assert files(run(experiment, "stopped")) == files(whole)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("checkpoint_seconds", [0, NEVER])
def test_a_killed_and_resumed_run_is_byte_identical(checkpoint_seconds, optimizer, tiny_experiment, run, at_step):
    experiment = tiny_experiment(recipe={"optimizer": optimizer, "learning_rate": 0.01})
    whole = run(experiment, "whole")
    at_step(6, fail)

    with pytest.raises(RuntimeError, match="killed"):
        run(experiment, "killed", checkpoint_seconds)

    assert files(run(experiment, "killed", checkpoint_seconds)) == files(whole)


def test_a_run_killed_between_kept_weights_and_checkpoint_is_byte_identical(tiny_experiment, run, monkeypatch):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 3})
    whole = run(experiment, "whole")
    with monkeypatch.context() as patched:
        patched.setattr("fewshot.training.state.save_checkpoint", lambda path, state: fail())
        with pytest.raises(RuntimeError, match="killed"):
            run(experiment, "killed")

    assert files(run(experiment, "killed")) == files(whole)


def test_a_run_stopped_several_times_is_byte_identical(tiny_experiment, run, stop_at_step):
    experiment = tiny_experiment()
    whole = run(experiment, "whole")
    for step in (1, 2, 7):
        stop_at_step(step)
        with pytest.raises(Interrupted):
            run(experiment, "stopped")

    assert files(run(experiment, "stopped")) == files(whole)


PROGRAM = """
import json, sys
from pathlib import Path
import torch
from fewshot.datasets.store import open_store
from fewshot.experiments.matrix import suite_experiments
from fewshot.experiments.params import Params
from fewshot.settings import parse_as
from fewshot.training.selection import publish
from fewshot.training.state import Checkpoints
from fewshot.training.train import train
torch.set_num_threads(1)
values, store, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
experiment = suite_experiments(parse_as(Params, values, where=""), "tiny")[0]
train(experiment, open_store(store), folder / "out", Checkpoints(folder / "checkpoints", seconds=0))
"""


@pytest.mark.parametrize(
    "stop",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(signal.SIGKILL, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_a_process_stopped_by_a_signal_can_be_resumed(stop, tiny_params, tiny_experiment, tiny_store, run, tmp_path):
    recipe = {"epochs": 10, "steps_per_epoch": 10}
    whole = run(tiny_experiment(recipe=recipe), "whole")
    folder = tmp_path / "stopped"
    for name in ("out", "checkpoints"):
        (folder / name).mkdir(parents=True)
    arguments = [json.dumps(tiny_params(recipe=recipe)), str(tiny_store.directory), str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background has children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (folder / "checkpoints" / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.01)

    process.send_signal(stop)
    errors = process.communicate(timeout=60)[1]

    assert process.returncode != 0
    assert stop == signal.SIGKILL or f"{stop.name}: stopped after step" in errors
    assert files(run(tiny_experiment(recipe=recipe), "stopped")) == files(whole)


def test_checkpoints_never_change_the_result(tiny_experiment, run):
    often, never = (run(tiny_experiment(), str(seconds), seconds) for seconds in (0, NEVER))

    assert files(often) == files(never)


def test_seed_decides_the_weights(tiny_experiment, run):
    first, again, other = (run(tiny_experiment(seed=seed), f"{i}") for i, seed in enumerate((0, 0, 1)))

    assert files(first) == files(again)
    assert files(first)["weights.safetensors"] != files(other)["weights.safetensors"]


def test_untrained_weights_are_the_seeded_initial_ones(tiny_experiment, run):
    experiment = tiny_experiment(recipe={"epochs": 0})

    weights = load_file(run(experiment) / "weights.safetensors")

    start = initial_learner(experiment).state_dict()
    assert weights.keys() == start.keys()
    assert all(torch.equal(weights[name], start[name]) for name in start)


def test_gpus_compute_in_full_float32_with_deterministic_kernels(tiny_experiment, run):
    with as_evaluated():  # restores the flags
        for owner, flag, value in FLAGS:
            setattr(owner, flag, not value)

        run(tiny_experiment(recipe={"epochs": 0}))

        assert [getattr(owner, flag) for owner, flag, _ in FLAGS] == [False, False, True, False]


def test_training_learns(tiny_experiment, run):
    rows = history(run(tiny_experiment(recipe={"epochs": 6, "steps_per_epoch": 10})))

    assert float(rows[-1]["train_loss"]) < 0.5 * float(rows[0]["train_loss"])
    assert float(rows[-1]["validation_accuracy"]) > 0.6


def test_history_has_a_row_per_epoch(tiny_experiment, run):
    rows = history(run(tiny_experiment(recipe={"schedule": [[1, 0.5], [2, 0.25]]})))

    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert [float(row["learning_rate"]) for row in rows] == [0.1, 0.05, 0.025]


def test_kept_checkpoints_are_the_best_epochs(tiny_experiment, run):
    out = run(tiny_experiment(recipe={"epochs": 5, "keep_checkpoints": 2}))

    rows = sorted(history(out), key=lambda row: (-float(row["validation_accuracy"]), int(row["epoch"])))
    best, second = (out / "ensemble" / f"epoch-{row['epoch']}.safetensors" for row in rows[:2])
    assert sorted((out / "ensemble").iterdir()) == sorted([best, second])
    assert (out / "weights.safetensors").read_bytes() == best.read_bytes()


def test_without_validation_the_last_state_is_kept(tiny_experiment, run):
    all_kept = run(tiny_experiment(recipe={"keep_checkpoints": 3}), "kept")
    last = run(tiny_experiment(recipe={"validation": {"episodes": 0}}), "last")

    expected = all_kept / "ensemble" / "epoch-3.safetensors"
    assert (last / "weights.safetensors").read_bytes() == expected.read_bytes()
    assert [row["validation_accuracy"] for row in history(last)] == ["", "", ""]


def test_training_with_more_ways_than_validation_classes_selects_its_epoch(tiny_experiment, run):
    recipe = {"n_way": 8, "n_shot": 1, "n_query": 1, "epochs": 2}
    validation = {"episodes": 6, "n_shot": 1, "n_query": 3}
    out = run(tiny_experiment(recipe={**recipe, "validation": {**validation, "n_way": 2}}))

    scored = [float(row["validation_accuracy"]) for row in csv.DictReader((out / "history.csv").open())]

    assert len(scored) == 2
    # 6 episodes of 2 classes with 3 queries each: accuracies are multiples of 1/36
    assert [round(accuracy * 36, 4) % 1 for accuracy in scored] == [0, 0]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"n_way": 9}, r"9 ways .* split 'train' has 8 classes; lower recipes\.quick\.n_way"),
        ({"n_way": 7}, r"7 ways .* split 'validation' has 6 classes; lower recipes\.quick\.validation\.n_way"),
        (
            {"n_query": 11},
            r"'train' have fewer images: .*lower recipes\.quick\.n_shot or recipes\.quick\.n_query",
        ),
        ({"validation": {"n_shot": 12}}, r"lower recipes\.quick\.validation\.n_shot or"),
    ],
)
def test_data_too_small_for_the_episodes_are_refused_before_the_first_step(
    recipe, message, tiny_experiment, run, at_step
):
    at_step(0, fail)

    with pytest.raises(DataError, match=message):
        run(tiny_experiment(recipe=recipe))


def test_data_of_an_untrained_learner_may_be_small(tiny_experiment, run):
    assert (run(tiny_experiment(recipe={"n_way": 9, "epochs": 0})) / "weights.safetensors").exists()


def test_trainval_trains_on_classes_of_both_splits(tiny_experiment, tiny_store, run):
    experiment = tiny_experiment(
        recipe={"train_split": "trainval", "validation": {"episodes": 0}, "n_way": 14, "n_query": 1}
    )

    batch = training_batch(experiment, tiny_store.split("trainval"), 0)

    assert batch.support_images.shape == (2, 28, 3, 16, 16)
    assert len(history(run(experiment))) == 3


@pytest.mark.parametrize(("learner", "backbone"), [("ridge", "pixels"), ("maml", "conv4_maml")])
def test_chunks_of_episodes_give_the_step_of_the_whole_batch(learner, backbone, tiny_experiment, tiny_store):
    def parameters_after_a_step(episodes_per_backward):
        recipe = {"meta_batch": 5, "episodes_per_backward": episodes_per_backward}
        experiment = tiny_experiment(learner, backbone, recipe=recipe)
        outer_step = OuterStep(experiment, tiny_store.split("train"), initial_learner(experiment).double())
        prepare = outer_step.preprocess
        outer_step.preprocess = lambda batch, training: in_double(prepare(batch, training=training))
        outer_step.take(0)
        return torch.cat([value.detach().flatten() for value in outer_step.learner.parameters()])

    whole, pairs = parameters_after_a_step(5), parameters_after_a_step(2)

    torch.testing.assert_close(pairs, whole, rtol=1e-12, atol=1e-12)


def in_double(batch):
    return replace(batch, support_images=batch.support_images.double(), query_images=batch.query_images.double())


def test_learning_rates_are_those_of_metaoptnet():
    recipe = load_plan(SHIPPED, suite="metaoptnet").train[0].experiment.recipe

    rates = [recipe.learning_rate * rate_multiplier(recipe, epoch * recipe.steps_per_epoch) for epoch in range(60)]

    assert rates == pytest.approx([0.1] * 20 + [0.006] * 20 + [0.0012] * 10 + [0.00024] * 10)
    last_step_of_epoch_20 = 20 * recipe.steps_per_epoch - 1
    assert rate_multiplier(recipe, last_step_of_epoch_20) == 1


def test_cosine_schedule_falls_from_one_to_zero():
    recipe = Recipe(epochs=10, steps_per_epoch=100, schedule="cosine")

    assert rate_multiplier(recipe, 0) == 1
    assert rate_multiplier(recipe, 500) == pytest.approx(0.5)
    assert rate_multiplier(recipe, 1000) == pytest.approx(0)


def test_label_smoothing_reaches_the_loss(tiny_experiment, tiny_store):
    experiment = tiny_experiment(recipe={"label_smoothing": 0.25, "meta_batch": 1})
    split, learner = tiny_store.split("train"), initial_learner(experiment)
    outer_step = OuterStep(experiment, split, learner)
    batch = outer_step.preprocess(training_batch(experiment, split, 0), training=True)
    expected = smoothed_cross_entropy(learner.train().logits(batch), batch.query_labels, 0.25)

    loss, _ = outer_step.take(0)

    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_first_step_of_adam_moves_a_weight_by_the_learning_rate(tiny_experiment, tiny_store):
    experiment = tiny_experiment(recipe={"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0})
    learner = initial_learner(experiment)
    before = learner.head.scale.item()

    OuterStep(experiment, tiny_store.split("train"), learner).take(0)

    assert abs(learner.head.scale.item() - before) == pytest.approx(1e-3, rel=1e-3)


def test_divergence_stops_the_run_and_names_the_learning_rate(tiny_experiment, run):
    experiment = tiny_experiment(recipe={"learning_rate": 100.0, "weight_decay": 1.0, "epochs": 9})

    with pytest.raises(NumericalError, match=r"(?s)lower.*recipes\.quick\.learning_rate"):
        run(experiment)


@pytest.mark.parametrize("episodes", [0, 6])
def test_weights_that_diverge_in_the_last_step_are_not_published(episodes, tiny_experiment, run, monkeypatch):
    monkeypatch.setattr(
        "fewshot.training.outer_step.rate_multiplier", lambda recipe, step: math.inf if step == 11 else 1.0
    )

    with pytest.raises(NumericalError, match=r"is not finite \(after 12 steps, .*learning_rate"):
        run(tiny_experiment(recipe={"validation": {"episodes": episodes, "n_query": 3}}))


def flip(file, share):
    """Flip one bit of a file, at a share of its length."""
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 4
    file.write_bytes(content)


def truncate(file, share):
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


DAMAGES = [(damage, share) for damage in (flip, truncate) for share in (0, 0.15, 0.5, 0.9)]


@pytest.mark.parametrize(("damage", "share"), DAMAGES)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    damage, share, tiny_experiment, run, at_step, tmp_path, capsys
):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 2})
    whole = run(experiment, "whole")
    at_step(10, fail)
    with pytest.raises(RuntimeError, match="killed"):
        run(experiment, "killed")
    damage(tmp_path / "killed" / "checkpoints" / "checkpoint.pt", share)

    assert files(run(experiment, "killed")) == files(whole)
    said = capsys.readouterr().err
    assert "checkpoint.pt: damaged" in said
    assert "resuming after step 4 of 12" in said


def test_the_checkpoint_before_survives_the_next_kill(tiny_experiment, run, at_step, tmp_path):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 2})
    whole = run(experiment, "whole")
    checkpoint = tmp_path / "killed" / "checkpoints" / "checkpoint.pt"
    for step in (10, 9):
        at_step(step, fail)
        with pytest.raises(RuntimeError, match="killed"):
            run(experiment, "killed")
        flip(checkpoint, 0.5)

    assert files(run(experiment, "killed")) == files(whole)


@pytest.mark.parametrize("names", [["checkpoint.pt", "checkpoint-previous.pt"], ["epoch-1.safetensors"]])
def test_training_restarts_if_no_checkpoint_is_intact(names, tiny_experiment, run, at_step, tmp_path, capsys):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 3})
    whole = run(experiment, "whole")
    at_step(10, fail)
    with pytest.raises(RuntimeError, match="killed"):
        run(experiment, "killed")
    for name in names:
        flip(tmp_path / "killed" / "checkpoints" / name, 0.9)

    assert files(run(experiment, "killed")) == files(whole)
    assert "no checkpoint is intact: training restarts from the beginning" in capsys.readouterr().err


def test_a_state_damaged_since_the_last_checkpoint_is_not_published(tiny_experiment, run, tmp_path, monkeypatch):
    experiment = tiny_experiment(recipe={"keep_checkpoints": 2})
    whole = run(experiment, "whole")
    with monkeypatch.context() as patched:
        patched.setattr("fewshot.training.train.publish", lambda *arguments, **settings: fail())
        with pytest.raises(RuntimeError, match="killed"):
            run(experiment, "killed")
    kept = sorted((tmp_path / "killed" / "checkpoints").glob("epoch-*.safetensors"))

    def damage_and_publish(*arguments, **settings):
        flip(kept[-1], 0.9)
        publish(*arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr("fewshot.training.train.publish", damage_and_publish)
        with pytest.raises(CheckpointError, match="rerun the same command"):
            run(experiment, "killed")

    assert files(run(experiment, "killed")) == files(whole)


def test_checkpoint_of_another_model_is_refused(tiny_experiment, run, tmp_path):
    stopped_run(tiny_experiment(), run, tmp_path)

    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: does not fit the model; .*of a different shape"):
        run(tiny_experiment(**{"backbone.filters": 8}))


def test_checkpoint_of_another_optimizer_is_refused(tiny_experiment, run, tmp_path):
    stopped_run(tiny_experiment(), run, tmp_path)

    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: incomplete"):
        run(tiny_experiment(recipe={"optimizer": "adam"}))


def test_incomplete_checkpoint_is_refused(tiny_experiment, run, tmp_path):
    save_checkpoint(stopped_run(tiny_experiment(), run, tmp_path), {"learner": {}})

    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: incomplete"):
        run(tiny_experiment())


def test_checkpoint_is_read_without_executing_code(tiny_experiment, run, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    save_checkpoint(stopped_run(tiny_experiment(), run, tmp_path), {"learner": Hostile()})

    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        run(tiny_experiment())
    assert not (tmp_path / "executed").exists()


def stopped_run(experiment, run, tmp_path):
    """Train to the end and return the last checkpoint, which `train` itself never deletes."""
    run(experiment)
    return tmp_path / "run" / "checkpoints" / "checkpoint.pt"
