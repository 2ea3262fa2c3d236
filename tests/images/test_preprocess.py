"""Properties of preprocessing a batch."""

from dataclasses import replace

import pytest
import torch

from fewshot.errors import DataError
from fewshot.images.preprocess import Preprocess

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture
def preprocess():
    return Preprocess(32, **PLAIN, crop_padding=4, jitter=0.4, flip=True, seed=1)


def test_output_is_float_and_channels_last_in_memory(preprocess, batch):
    prepared = preprocess(batch([0, 1]), training=True)

    for images in (prepared.support_images, prepared.query_images):
        assert images.dtype == torch.float32
        assert images.shape[2:] == (3, 32, 32)
        assert images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
        assert images.flatten(0, 1).data_ptr() == images.data_ptr()


def test_labels_and_ids_pass_through(preprocess, batch):
    before = batch([4, 5])
    after = preprocess(before, training=True)

    assert after.support_labels is before.support_labels
    assert after.query_labels is before.query_labels
    assert after.episode_ids is before.episode_ids


def test_preprocessing_of_an_episode_does_not_depend_on_its_batch(preprocess, batch):
    together = preprocess(batch([3, 8]), training=True)
    alone = preprocess(batch([8]), training=True)

    assert torch.equal(together.support_images[1:], alone.support_images)
    assert torch.equal(together.query_images[1:], alone.query_images)


def test_queries_do_not_depend_on_the_shots(preprocess, batch):
    one, five = batch([3], n_support=5), batch([3], n_support=25)

    assert torch.equal(preprocess(one, training=True).query_images, preprocess(five, training=True).query_images)


def test_evaluation_does_not_augment(preprocess, batch):
    episodes = batch([0])

    prepared = preprocess(episodes, training=False).query_images

    torch.testing.assert_close(prepared, (episodes.query_images / 255 - 0.5) / 0.25)


def test_without_augmentation_training_equals_evaluation(batch):
    preprocess, episodes = Preprocess(32, **PLAIN), batch([0])

    assert not preprocess.augments
    assert torch.equal(
        preprocess(episodes, training=True).support_images, preprocess(episodes, training=False).support_images
    )


def test_images_are_not_modified_in_place(preprocess, batch):
    episodes = batch([0])
    before = episodes.support_images.clone()

    preprocess(episodes, training=True)

    assert torch.equal(episodes.support_images, before)


def test_resize_comes_before_augmentation(batch):
    preprocess = Preprocess(28, **PLAIN, crop_padding=4, jitter=0.4, flip=True)

    prepared = preprocess(batch([0], size=32), training=True)

    assert prepared.support_images.shape == (1, 5, 3, 28, 28)


def test_memory_order_of_the_images_does_not_matter(preprocess, batch):
    episodes = batch([0, 1])
    contiguous = replace(episodes, support_images=episodes.support_images.contiguous())

    expected = preprocess(episodes, training=True).support_images
    assert torch.equal(preprocess(contiguous, training=True).support_images, expected)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 32, 32, 3), torch.zeros(2, 32, 32, 1, dtype=torch.uint8), torch.zeros(32, 32, 3).byte()]
)
def test_images_of_wrong_type_or_shape_are_refused(preprocess, images):
    with pytest.raises(DataError, match="uint8 with 3 channels"):
        preprocess.images(images)
