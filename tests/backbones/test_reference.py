"""Backbones against reference numbers of the original networks; weights and input follow from integers, in float64."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewshot.backbones import build_backbone
from fewshot.backbones.dropblock import full_squares, keep_share, released_squares, seed_probability

pytestmark = pytest.mark.oracle

FOLDER = Path(os.environ.get("FEWSHOT_ORACLE", Path(__file__).parents[1] / "references")) / "metaoptnet"
BACKBONE_CASES = sorted(FOLDER.glob("backbone_*.npz"))
DROPBLOCK_CASES = sorted(FOLDER.glob("dropblock*.npz"))
WITHOUT_DROPOUT = {"conv4": {}, "r2d2": {"dropout3": 0.0, "dropout4": 0.0}, "resnet12": {"drop_rate": 0.0}}


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def fill(shape, k, variant):
    """Return u(i, k), values in [-0.5, 0.5) that follow from the flat index i in integer arithmetic."""
    i = np.arange(np.prod(shape), dtype=np.int64)
    u = ((i * i + 31 * i * (k + 1) + 17 * k + 101 * variant * (i + 1)) % 1000003) / 1000003 - 0.5
    return torch.from_numpy(u.reshape(shape))


def filled_backbone(name, size, variant):
    backbone = build_backbone(name, image_size=size, **WITHOUT_DROPOUT[name]).double()
    norms = {id(p) for m in backbone.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight,)}
    with torch.no_grad():
        for k, parameter in enumerate(backbone.parameters()):
            u = fill(parameter.shape, k, variant)
            if parameter.ndim == 4:
                u = u * 2 * 3**0.5 * (2 / parameter[0].numel()) ** 0.5
            else:
                u = 1 + 0.2 * u if id(parameter) in norms else 0.1 * u
            parameter.copy_(u)
        for b, norm in enumerate(batch_norms(backbone)):
            norm.running_mean.copy_(0.05 * fill(norm.running_mean.shape, 1000 + b, variant))
            norm.running_var.copy_(1 + 0.5 * fill(norm.running_var.shape, 2000 + b, variant))
    return backbone


def batch_norms(backbone):
    return [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]


def assert_close(actual, expected, rtol=1e-9):
    actual, expected = torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol)


@pytest.fixture(params=BACKBONE_CASES, ids=lambda path: path.stem)
def case(request):
    """A reference file, the filled backbone and the input images."""
    reference = load(request.param)
    name, size, variant = request.param.stem.split("_")[1], int(reference["size"]), int(reference["variant"])
    images = 2 * 3**0.5 * fill((int(reference["n_images"]), 3, size, size), 5000, variant)
    return reference, filled_backbone(name, size, variant), images.requires_grad_()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_features_gradients_and_running_statistics_equal_the_reference(case, memory_format):
    reference, backbone, images = case
    assert sum(p.numel() for p in backbone.parameters()) == reference["n_parameters"]
    backbone.to(memory_format=memory_format)

    check_pass(backbone.eval(), images, reference, "eval")
    check_pass(backbone.train(), images, reference, "train")

    norms = batch_norms(backbone)
    for place, norm in (("first", norms[0]), ("last", norms[-1])):
        assert_close(norm.running_mean, reference[f"after_train__{place}_bn_running_mean"])
        assert_close(norm.running_var, reference[f"after_train__{place}_bn_running_var"])


def check_pass(backbone, images, reference, mode):
    features = backbone(images)
    weights = torch.arange(features.shape[1], dtype=torch.float64).cos() / features.shape[1] ** 0.5
    parameters = list(backbone.parameters())
    *gradients, input_gradient = torch.autograd.grad((features * weights).sum(), [*parameters, images])

    assert features.shape[1] == backbone.embedding_size == reference[f"{mode}__feature_dim"]
    assert_close(features[:, :: int(reference["slice_step"])], reference[f"{mode}__features_sliced"])
    assert_close(features.sum(1), reference[f"{mode}__features_sum"])
    assert_close(features.norm(dim=1), reference[f"{mode}__features_norm"])
    assert_close(torch.stack([g.norm() for g in gradients]), reference[f"{mode}__param_grad_norms"])
    assert_close(gradients[0], reference[f"{mode}__first_conv_grad"], rtol=1e-6)  # stored in float32
    assert_close(input_gradient.norm(), reference[f"{mode}__input_grad_norm"])


@pytest.mark.parametrize("path", DROPBLOCK_CASES, ids=lambda path: path.stem)
def test_dropblock_masks_and_schedule_equal_the_reference(path):
    reference = load(path)
    for b, f, n, keep, gamma in reference.get("table", []):
        assert_close(keep_share(int(n), rate=0.1, ramp_steps=20_000), keep)
        assert_close(seed_probability(keep, int(b), int(f)), gamma)
    for prefix in (key.removesuffix("__seeds") for key in reference if key.endswith("__seeds")):
        block_size = int(prefix.split("_")[0].removeprefix("bs"))
        seeds = torch.from_numpy(reference[f"{prefix}__seeds"]).float()
        assert_close(1 - full_squares(seeds, block_size), reference[f"{prefix}__intended_keep_mask"])
        assert_close(1 - released_squares(seeds, block_size), reference[f"{prefix}__original_keep_mask"])


def test_reference_files_are_found():
    assert BACKBONE_CASES
    assert DROPBLOCK_CASES
