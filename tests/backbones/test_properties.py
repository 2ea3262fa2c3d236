"""Properties of every registered backbone; a new entry is tested without changes here."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot.backbones import BACKBONES, build_backbone
from fewshot.errors import DataError, ParamsError

SIZE = 32


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


@pytest.fixture
def backbone(name):
    torch.manual_seed(0)
    return build_backbone(name, image_size=SIZE)


@pytest.fixture
def images():
    return torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_embedding_has_the_stated_shape_and_dtype(backbone, images):
    embeddings = backbone(images)

    assert embeddings.shape == (6, backbone.embedding_size)
    assert embeddings.dtype == torch.float32
    assert embeddings.isfinite().all()


def test_resnet12_can_average_its_last_map(images):
    torch.manual_seed(0)
    flat = build_backbone("resnet12", image_size=SIZE).eval()
    torch.manual_seed(0)
    mean = build_backbone("resnet12", image_size=SIZE, pooling="mean").eval()

    torch.testing.assert_close(mean(images), flat(images).unflatten(1, (640, 4)).mean(2))
    assert mean.embedding_size == 640


@pytest.mark.parametrize("size", [28, 33, 84])
def test_embedding_size_at_other_image_sizes(name, size):
    backbone = build_backbone(name, image_size=size).eval()

    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, size, size)).shape == (1, backbone.embedding_size)


def test_channels_last_gives_the_same_embedding(backbone, images):
    backbone.eval()
    contiguous = backbone(images)
    backbone.to(memory_format=torch.channels_last)

    torch.testing.assert_close(backbone(images.contiguous(memory_format=torch.channels_last)), contiguous)


def test_single_precision_is_close_to_double(backbone, images):
    backbone.eval()
    single = backbone(images)

    torch.testing.assert_close(single.double(), backbone.double()(images.double()), rtol=1e-4, atol=1e-4)


def test_evaluation_embeds_each_image_independently(backbone, images):
    backbone.eval()

    torch.testing.assert_close(backbone(images)[2:3], backbone(images[2:3]), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(backbone, images):
    parameters = list(backbone.parameters())
    if not parameters:
        pytest.skip(f"{type(backbone).__name__} has no parameters to train")

    backbone(images).square().sum().backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


def test_saved_weights_give_the_same_embedding(name, backbone, images, tmp_path):
    backbone(images)  # updates running statistics
    expected = backbone.eval()(images)
    state = {**backbone.state_dict(), "marker": torch.zeros(1)}  # safetensors refuses to read an empty file
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "weights.safetensors")
    torch.manual_seed(5)
    other = build_backbone(name, image_size=SIZE)
    loaded = load_file(tmp_path / "weights.safetensors")
    del loaded["marker"]

    other.load_state_dict(loaded)

    torch.testing.assert_close(other.eval()(images), expected, rtol=0, atol=0)


def test_same_seed_gives_the_same_initial_weights(name, backbone):
    torch.manual_seed(0)
    other = build_backbone(name, image_size=SIZE)

    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(2, 3, SIZE + 1, SIZE), (2, 1, SIZE, SIZE), (3, SIZE, SIZE)])
def test_wrong_image_shape_is_refused(backbone, shape):
    with pytest.raises(DataError, match=r"\(N, 3, 32, 32\)"):
        backbone(torch.zeros(shape))


@pytest.mark.parametrize("name", ["conv4", "r2d2", "resnet12"])
def test_too_small_image_size_is_refused(name):
    with pytest.raises(ParamsError, match="image_size 15"):
        build_backbone(name, image_size=15)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ParamsError, match="resnet12"):
        build_backbone("resnet", image_size=SIZE)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("image_size", ["32", 32.0, None, (32, 32)])
def test_a_size_that_is_no_integer_is_refused(name, image_size):
    with pytest.raises(ParamsError, match=r"image_size .* is not allowed: it should be an integer"):
        build_backbone(name, image_size=image_size)


@pytest.mark.parametrize("name", BACKBONES)
def test_images_that_are_not_floating_point_are_refused(name):
    with pytest.raises(DataError, match=r"floating-point images but got torch.uint8"):
        build_backbone(name, image_size=32)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("conv4", {"filters": 0}),
        ("conv4_maml", {"pooling": "x"}),
        ("conv4_maml", {"leaky_slope": "x"}),
        ("resnet12", {"dropblock": "x"}),
        ("r2d2", {"dropout3": 2.0}),
    ],
)
def test_classes_check_their_settings(name, setting):
    with pytest.raises(ParamsError, match=f"^{next(iter(setting))}: .* is not allowed"):
        BACKBONES[name].load()(32, **setting)
