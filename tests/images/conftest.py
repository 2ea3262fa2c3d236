import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image

from fewshot.episodes.batch import EpisodeBatch
from fewshot.images.augment_draws import BRIGHTNESS, CONTRAST, JITTER_ORDERS, SATURATION

ADJUST = {BRIGHTNESS: TF.adjust_brightness, CONTRAST: TF.adjust_contrast, SATURATION: TF.adjust_saturation}


@pytest.fixture
def pil_augment():
    """Return a function that augments one image (H, W, 3) with torchvision on PIL, using row `i` of the draws."""

    def augment(image, draws, i, crop_padding):
        size = image.shape[0]
        picture = TF.pad(Image.fromarray(image), crop_padding)
        picture = TF.crop(picture, int(draws.top[i]), int(draws.left[i]), size, size)
        for operation in JITTER_ORDERS[draws.order[i]]:
            picture = ADJUST[operation](picture, float(draws.factors[i, operation]))
        return TF.hflip(picture) if draws.flip[i] else picture

    return augment


@pytest.fixture
def images():
    """Return a function that makes n images (n, size, size, 3): noise, gradients, and flat black, white and grey."""

    def make(n, size):
        random = np.random.default_rng(size)
        noise = random.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
        noise[1::3] = np.linspace(0, 255, size, dtype=np.uint8)[:, None]
        noise[1::3, ..., 1] //= 2
        for flat, level in zip(range(2, n, 6), (0, 255, 128, 1, 254), strict=False):
            noise[flat] = level
        return noise

    return make


@pytest.fixture
def batch(images):
    """Return a function that makes a batch of 5-way episodes from given ids."""

    def make(ids, size=32, n_support=5, n_query=10):
        def episodes(n):
            stack = [np.roll(images(n, size), int(i) % 7, axis=2) for i in ids]
            return torch.from_numpy(np.stack(stack)).permute(0, 1, 4, 2, 3)

        def labels(n):
            return torch.arange(n).remainder(5).expand(len(ids), -1)

        ids_ = torch.tensor(ids, dtype=torch.int64)
        return EpisodeBatch(episodes(n_support), labels(n_support), episodes(n_query), labels(n_query), ids_, 5)

    return make
