"""DropBlock: fraction dropped, shape of the squares, schedule by the global step."""

import pytest
import torch

from fewshot.backbones import build_backbone
from fewshot.backbones.dropblock import DropBlock, full_squares, released_squares
from fewshot.errors import ParamsError


def dropblock(mode="ramp", map_size=10, block_size=5, rate=0.1, ramp_steps=100, step=1000):
    module = DropBlock(map_size, block_size, rate, ramp_steps, mode)
    module.set_step(step)
    return module


@pytest.mark.parametrize(("map_size", "block_size"), [(10, 5), (5, 5), (4, 2), (2, 2), (7, 1)])
def test_dropped_fraction_at_full_rate(map_size, block_size):
    torch.manual_seed(0)
    dropped = (
        dropblock(map_size=map_size, block_size=block_size)(torch.ones(100, 64, map_size, map_size)) == 0
    ).float()

    # Overlapping squares make the fraction slightly smaller than the rate.
    assert 0.085 < dropped.mean() < 0.105


def test_the_dropped_area_is_a_union_of_whole_squares():
    torch.manual_seed(0)
    dropped = (dropblock()(torch.ones(50, 8, 10, 10)) == 0).float()

    whole = -torch.nn.functional.max_pool2d(-dropped, 5, stride=1)  # 1 where a whole square is dropped
    assert torch.equal(full_squares(whole, 5), dropped)


def test_mean_of_a_constant_map_is_preserved():
    torch.manual_seed(0)
    output = dropblock()(torch.ones(20, 8, 10, 10))

    torch.testing.assert_close(output.mean(), torch.tensor(1.0))


def test_rate_follows_the_global_step():
    torch.manual_seed(0)
    ones = torch.ones(200, 64, 10, 10)
    shares = [(dropblock(ramp_steps=100, step=step)(ones) == 0).float().mean().item() for step in (0, 50, 100, 1000)]

    assert shares[0] < 0.002
    assert shares[1] == pytest.approx(0.05, abs=0.01)
    assert shares[2] == pytest.approx(shares[3], abs=0.005)


def test_support_and_query_of_a_step_are_counted_separately():
    module = dropblock(rate=1.0, ramp_steps=1, step=0, map_size=2, block_size=2)
    ones = torch.ones(100, 100, 2, 2)
    torch.manual_seed(0)

    half = (module(ones) == 0).float().mean().item()
    all_but = module(ones)

    assert half == pytest.approx(0.5, abs=0.02)
    assert (all_but == 0).all()
    module.set_step(0)
    assert (module(ones) == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_same_step_and_seed_give_the_same_mask():
    module, ones = dropblock(), torch.ones(4, 8, 10, 10)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        module.set_step(7)
        outputs.append(module(ones))

    assert torch.equal(*outputs)


@pytest.mark.parametrize("module", [dropblock("off"), dropblock(rate=0.0), dropblock().eval()])
def test_nothing_is_dropped_when_off_or_in_evaluation(module):
    x = torch.randn(2, 3, 10, 10)

    assert module(x) is x


def test_released_squares_lie_within_the_full_ones_and_are_equal_for_one_seed():
    torch.manual_seed(0)
    seeds = (torch.rand(8, 16, 6, 6) < 0.02).float()
    one = torch.zeros(1, 1, 6, 6)
    one[0, 0, 2, 3] = 1

    assert (released_squares(seeds, 5) <= full_squares(seeds, 5)).all()
    assert torch.equal(released_squares(one, 5), full_squares(one, 5))


def test_bfloat16_map_keeps_its_dtype_and_scale():
    torch.manual_seed(0)
    output = dropblock()(torch.ones(40, 64, 10, 10, dtype=torch.bfloat16))

    assert output.dtype == torch.bfloat16
    assert output.float().mean().item() == pytest.approx(1, abs=0.01)


def test_square_larger_than_the_map_is_refused_when_building():
    with pytest.raises(ParamsError, match="dropblock_size 5"):
        build_backbone("resnet12", image_size=32, dropblock_size=5)


@pytest.mark.parametrize(("image_size", "block_size"), [(84, 5), (32, 2), (16, 1)])
def test_square_size_depends_on_the_image_size(image_size, block_size):
    blocks = [m for m in build_backbone("resnet12", image_size=image_size).modules() if isinstance(m, DropBlock)]

    assert [m.block_size for m in blocks] == [block_size] * 2


def test_backbone_forwards_the_step_to_dropblock():
    backbone = build_backbone("resnet12", image_size=32, dropblock_ramp_steps=10)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.manual_seed(0)
        backbone.set_step(0)
        early = backbone(images)
        torch.manual_seed(0)
        backbone.set_step(10)
        late = backbone(images)

    assert (late == 0).float().mean() > (early == 0).float().mean() + 0.03
