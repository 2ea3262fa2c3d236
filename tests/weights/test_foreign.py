"""The original program's checkpoints and this project's exports load; all else is refused with the reason."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fewshot.errors import CheckpointError
from fewshot.learners import build_learner
from fewshot.learners.base import Learner, LearnerContext
from fewshot.weights.checkpoint import save_weights
from fewshot.weights.foreign import load_foreign_weights


def ridge_learner(backbone: str = "resnet12", seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    context = LearnerContext(n_way=5, image_size=32, steps_per_epoch=1)
    return build_learner("ridge", backbone=backbone, context=context)


def original_checkpoint(learner: Learner, prefix: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return state dictionaries as the original program saves them, where the scale is a vector of one element."""
    state = learner.state_dict()
    embedding = {prefix + k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return {"embedding": embedding, "head": {f"{prefix}scale": torch.tensor([2.5])}}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("backbone", ["conv4", "r2d2", "resnet12"])
def test_checkpoint_of_the_original_program_loads(tmp_path: Path, backbone: str, prefix: str) -> None:
    source, target = ridge_learner(backbone, seed=1), ridge_learner(backbone, seed=2)
    torch.save(original_checkpoint(source, prefix), tmp_path / "best_model.pth")

    load_foreign_weights(tmp_path / "best_model.pth", target)

    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(target.eval().embed(images), source.eval().embed(images), rtol=0, atol=0)
    assert target.state_dict()["head.scale"].item() == 2.5


def test_export_loads(tmp_path: Path) -> None:
    source, target = ridge_learner("conv4", seed=1), ridge_learner("conv4", seed=2)
    save_weights(tmp_path / "weights.safetensors", source)

    load_foreign_weights(tmp_path / "weights.safetensors", target)

    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_another_backbone_is_refused_naming_the_tensors_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(original_checkpoint(ridge_learner("conv4"), ""), tmp_path / "conv4.pth")

    with pytest.raises(CheckpointError, match=r"missing: backbone\.layer1.*not of this model: backbone\.encoder"):
        load_foreign_weights(tmp_path / "conv4.pth", ridge_learner("resnet12"))


def test_other_widths_are_refused_naming_both_shapes(tmp_path: Path) -> None:
    checkpoint = original_checkpoint(ridge_learner("conv4"), "")
    checkpoint["embedding"]["encoder.0.block.0.weight"] = torch.zeros(32, 3, 3, 3)
    torch.save(checkpoint, tmp_path / "narrow.pth")

    with pytest.raises(CheckpointError, match=r"encoder\.0\.block\.0\.weight is \(32, 3, 3, 3\), not \(64, 3, 3, 3\)"):
        load_foreign_weights(tmp_path / "narrow.pth", ridge_learner("conv4"))


class Bomb:
    """An object whose unpickling executes code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('/tmp/fewshot-was-here', 'w').close()",)


def test_file_that_would_execute_code_is_refused_without_executing_it(tmp_path: Path) -> None:
    torch.save({"embedding": Bomb(), "head": {}}, tmp_path / "hostile.pth")

    with pytest.raises(CheckpointError, match="refused"):
        load_foreign_weights(tmp_path / "hostile.pth", ridge_learner("conv4"))

    assert not Path("/tmp/fewshot-was-here").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "refused"),
        ("text.pth", b"<html>quota exceeded</html>", "refused"),
        ("pickle.pth", pickle.dumps([1, 2]), "refused|not dictionaries"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a readable weights file"),
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        load_foreign_weights(tmp_path / name, ridge_learner("conv4"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_foreign_weights(tmp_path / "gone.pth", ridge_learner("conv4"))


def test_checkpoint_of_another_program_is_refused_naming_its_contents(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": torch.tensor(3)}, tmp_path / "other.pth")

    with pytest.raises(CheckpointError, match="holds state_dict, epoch"):
        load_foreign_weights(tmp_path / "other.pth", ridge_learner("conv4"))


def test_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder; give the path of a weights file"):
        load_foreign_weights(tmp_path, ridge_learner("conv4"))


KERNEL = "encoder.0.block.0.weight"
UNUSABLE = {
    "sparse": (lambda shape: torch.zeros(shape).to_sparse(), "weights are dense real numbers"),
    "without values": (lambda shape: torch.zeros(shape, device="meta"), "weights are dense real numbers"),
    "nested": (
        lambda _: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)]),
        "weights are dense real numbers",
    ),
    "complex": (lambda shape: torch.zeros(shape, dtype=torch.complex64), "is a torch.complex64 tensor"),
    "truth values": (lambda shape: torch.zeros(shape, dtype=torch.bool), "is a torch.bool tensor"),
    "not a number": (lambda shape: torch.full(shape, float("nan")), "not finite"),
    "too large for float32": (lambda shape: torch.full(shape, 1e300, dtype=torch.float64), "not finite"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", UNUSABLE)
def test_tensor_that_holds_no_weights_is_named(tmp_path: Path, case: str) -> None:
    make, message = UNUSABLE[case]
    checkpoint = original_checkpoint(ridge_learner("conv4"), "")
    checkpoint["embedding"][KERNEL] = make(checkpoint["embedding"][KERNEL].shape)
    torch.save(checkpoint, tmp_path / "odd.pth")

    with pytest.raises(CheckpointError, match=rf"{KERNEL}.*{message}"):
        load_foreign_weights(tmp_path / "odd.pth", ridge_learner("conv4"))


def test_numbers_of_an_export_must_be_finite(tmp_path: Path) -> None:
    learner = ridge_learner("conv4")
    next(learner.parameters()).data.fill_(float("inf"))
    save_weights(tmp_path / "weights.safetensors", learner)

    with pytest.raises(CheckpointError, match="not finite"):
        load_foreign_weights(tmp_path / "weights.safetensors", ridge_learner("conv4"))


HOSTILE_NAME = "\x1b]0;owned\x07\r\n\u202e" + "x" * 10_000


@pytest.mark.parametrize("where", ["tensor", "section", "safetensors", "file"])
def test_names_in_a_file_are_shown_escaped_and_shortened(tmp_path: Path, where: str) -> None:
    file = tmp_path / {"safetensors": "w.safetensors", "file": f"{HOSTILE_NAME[:20]}.pth"}.get(where, "w.pth")
    checkpoint = original_checkpoint(ridge_learner("conv4"), "")
    if where == "safetensors":
        save_file({HOSTILE_NAME: torch.zeros(1)}, file)
    else:
        checkpoint["embedding"][HOSTILE_NAME] = torch.zeros(1)
        torch.save({HOSTILE_NAME: torch.zeros(1)} if where == "section" else checkpoint, file)

    with pytest.raises(CheckpointError) as error:
        load_foreign_weights(file, ridge_learner("conv4"))

    assert str(error.value).replace("\n", "").isprintable()
    assert "x1b]0;owned" in str(error.value)
    assert len(str(error.value)) < 1500
