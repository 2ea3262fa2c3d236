"""The CPU kernel and the batched form against torchvision on PIL images, with the same draws: exactly equal."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image

from fewshot.images.augment_batched import augment_batch, jitter_orders, normalize_batch
from fewshot.images.augment_draws import JITTER_ORDERS, draw_augmentations
from fewshot.images.augment_kernel import augment_images
from fewshot.images.preprocess import Preprocess, normalized_levels

MEAN, STD = (0.507, 0.486, 0.441), (0.267, 0.256, 0.276)
LEVELS = np.tile(np.arange(256, dtype=np.float32), (3, 1))  # the identity table
SETTINGS = [(32, 4, 0.4), (84, 8, 0.4), (28, 0, 0.4), (32, 4, 1.0), (32, 40, 0.0), (33, 1, 0.05)]


@pytest.mark.parametrize(("size", "crop_padding", "jitter"), SETTINGS)
def test_kernel_equals_pil(images, pil_augment, size, crop_padding, jitter):
    stored = images(60, size)
    draws = draw_augmentations(1, "support", np.arange(4), 15, crop_padding=crop_padding, jitter=jitter, flip=True)

    augmented = augment_images(stored, draws, crop_padding, jitter > 0, LEVELS)

    expected = np.stack([pil_augment(image, draws, i, crop_padding) for i, image in enumerate(stored)])
    np.testing.assert_array_equal(augmented, expected)


@pytest.mark.parametrize(("size", "crop_padding", "jitter"), SETTINGS)
def test_batched_form_equals_kernel(images, size, crop_padding, jitter):
    stored = images(60, size)
    draws = draw_augmentations(1, "support", np.arange(4), 15, crop_padding=crop_padding, jitter=jitter, flip=True)

    table = draws.table(np.arange(60), crop_padding)
    augmented = augment_batch(torch.from_numpy(stored), torch.from_numpy(table), jitter > 0, torch.from_numpy(LEVELS))

    np.testing.assert_array_equal(augmented, augment_images(stored, draws, crop_padding, jitter > 0, LEVELS))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu(batch):
    preprocess = Preprocess(32, mean=MEAN, std=STD, crop_padding=4, jitter=0.4, flip=True)
    episodes = batch([0, 1, 2])
    on_gpu = type(episodes)(*(v.cuda() if isinstance(v, torch.Tensor) else v for v in vars(episodes).values()))

    for training in (True, False):
        expected, actual = preprocess(episodes, training=training), preprocess(on_gpu, training=training)
        assert torch.equal(actual.support_images.cpu(), expected.support_images)
        assert torch.equal(actual.query_images.cpu(), expected.query_images)


def test_float_images_equal_torchvision(batch, pil_augment):
    preprocess = Preprocess(32, mean=MEAN, std=STD, crop_padding=4, jitter=0.4, flip=True, seed=9)
    episodes = batch([3, 2**40])
    draws = draw_augmentations(9, "query", episodes.episode_ids.numpy(), 10, crop_padding=4, jitter=0.4, flip=True)

    prepared = preprocess(episodes, training=True).query_images

    stored = episodes.query_images.permute(0, 1, 3, 4, 2).flatten(0, 1).numpy()
    pictures = [pil_augment(image, draws, i, 4) for i, image in enumerate(stored)]
    expected = torch.stack([TF.normalize(TF.to_tensor(picture), MEAN, STD) for picture in pictures])
    assert torch.equal(prepared.flatten(0, 1), expected)


def test_test_images_equal_torchvision(images):
    stored = images(7, 32)

    prepared = Preprocess(32, mean=MEAN, std=STD).images(stored)

    expected = [TF.normalize(TF.to_tensor(Image.fromarray(image)), MEAN, STD) for image in stored]
    assert torch.equal(prepared, torch.stack(expected))
    levels = torch.from_numpy(normalized_levels(MEAN, STD))
    assert torch.equal(normalize_batch(torch.from_numpy(stored), levels).permute(0, 3, 1, 2), prepared)


@pytest.mark.parametrize("size", [28, 84])
def test_images_of_other_sizes_are_resized_as_by_pil(images, size):
    stored = images(4, 32)

    prepared = Preprocess(size, mean=(0, 0, 0), std=(1, 1, 1)).images(stored)

    pictures = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in stored]
    assert torch.equal(prepared, torch.stack([TF.to_tensor(picture) for picture in pictures]))


def test_orders_computed_on_a_device_are_those_of_the_table():
    assert jitter_orders(torch.arange(len(JITTER_ORDERS))).tolist() == JITTER_ORDERS.tolist()
