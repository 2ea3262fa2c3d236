"""Stored images (uint8) -> input images of a backbone (float32): resized, augmented in training, normalised.

Shapes: T episodes, S support images, Q query images in all, N images, C x H x W.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot.episodes.batch import EpisodeBatch
from fewshot.episodes.minibatch import ImageBatch
from fewshot.errors import DataError
from fewshot.images.augment_batched import augment_batch, normalize_batch
from fewshot.images.augment_draws import Draws, draw_augmentations, no_augmentation
from fewshot.images.augment_kernel import augment_images, normalize_images

BatchType = TypeVar("BatchType", EpisodeBatch, ImageBatch)


class Preprocess:
    """Preprocessing of an experiment's images.

    Order in training, as in MetaOptNet: random crop of the image padded with black, colour jitter (brightness,
    contrast, saturation in random order), horizontal flip, scaling to 0..1, normalisation.

    Args:
        image_size: side of the backbone's input images, pixels; stored images of a different size are first resized
            (PIL, bicubic).
        mean: mean of each channel, on the scale 0..1.
        std: standard deviation of each channel, on the scale 0..1.
        crop_padding: width of the black border for the random crop, pixels; 0 means no crop.
        jitter: colour factors are uniform in [1 - jitter, 1 + jitter]; 0 means no jitter.
        flip: flip each image horizontally with probability 1/2.
        seed: seed of the random augmentation.
    """

    def __init__(
        self,
        image_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        crop_padding: int = 0,
        jitter: float = 0.0,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        self.image_size = image_size
        self.crop_padding, self.jitter, self.flip, self.seed = crop_padding, jitter, flip, seed
        self.mean, self.std = tuple(mean), tuple(std)
        self._levels = normalized_levels(mean, std)
        self._levels_by_device: dict[torch.device, Tensor] = {}

    @property
    def augments(self) -> bool:
        """Whether training images are augmented."""
        return self.crop_padding > 0 or self.jitter > 0 or self.flip

    def __call__(self, batch: BatchType, *, training: bool) -> BatchType:
        """Return the batch with float32 images (T, S or Q, C, H, W) or (B, C, H, W), channels last in memory.

        Args:
            batch: uint8 images, in episodes or in a minibatch.
            training: whether to augment; draws depend on the seed, the episode's id and the image's position in it; in
                a minibatch, on the seed and the image's id.

        Raises:
            DataError: if the images are not uint8 with three channels.
        """
        if isinstance(batch, ImageBatch):
            images = self.episodes(batch.images.unsqueeze(1), "minibatch", batch.ids.numpy(), training)
            return replace(batch, images=images.squeeze(1))
        ids = batch.episode_ids.numpy()
        return replace(
            batch,
            support_images=self.episodes(batch.support_images, "support", ids, training),
            query_images=self.episodes(batch.query_images, "query", ids, training),
        )

    def images(self, images: Tensor | np.ndarray) -> Tensor:
        """Return test images (N, H, W, C) uint8 as float32 (N, C, H, W), channels last in memory."""
        stored = self.resized(images if isinstance(images, Tensor) else torch.from_numpy(np.array(images)))
        if stored.device.type == "cpu":
            floats = torch.from_numpy(normalize_images(stored.numpy(), self._levels))
        else:
            floats = normalize_batch(stored, self._levels_on(stored.device))
        return floats.permute(0, 3, 1, 2)

    def table(self, role: str, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return what determines the augmented training images of some episodes, (T * n, TABLE_COLUMNS) int32.

        Args:
            role: "support" or "query".
            ids: (T,) int64, ids of the episodes.
            rows: (T, n) number of each image in the array given to `augmented`.
        """
        draws = self._draws(role, ids, rows.shape[1]) if self.augments else no_augmentation(rows.size)
        return draws.table(rows.reshape(-1), self.crop_padding if self.augments else 0)

    def augmented(self, stored: Tensor, table: Tensor) -> Tensor:
        """Augment and normalise images on an accelerator.

        Args:
            stored: (R, image_size, image_size, C) uint8.
            table: (N, TABLE_COLUMNS) int32, on the same device, as returned by `table`.

        Returns:
            (N, C, H, W) float32, channels last in memory.
        """
        augment = _augmentation_for(stored.device.type)
        return augment(stored, table, self.jitter > 0, self._levels_on(stored.device)).permute(0, 3, 1, 2)

    def resized(self, images: Tensor) -> Tensor:
        """Check images (N, h, w, C) and resize them to the backbone's input size.

        Raises:
            DataError: if the images are not uint8 with three channels.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(
                f"images must be uint8 with 3 channels, but are {images.dtype} of shape {tuple(images.shape)}"
            )
        size = self.image_size
        if images.shape[1:3] == (size, size):
            return images
        return torch.from_numpy(resize(images.cpu().numpy(), size)).to(images.device)

    def episodes(self, images: Tensor, role: str, ids: np.ndarray, training: bool) -> Tensor:
        """Return images (T, n, C, h, w) uint8 of some episodes as float32 (T, n, C, H, W).

        Args:
            images: of each episode.
            role: the random stream of their augmentation: "support", "query", "minibatch" or "tested support".
            ids: (T,) int64, ids of the episodes.
            training: whether to augment.
        """
        stored, shape = images.permute(0, 1, 3, 4, 2).flatten(0, 1), images.shape[:2]
        if not (training and self.augments):
            return self.images(stored).unflatten(0, shape)
        images = self.resized(stored)
        if images.device.type == "cpu":
            draws = self._draws(role, ids, shape[1])
            floats = augment_images(images.numpy(), draws, self.crop_padding, self.jitter > 0, self._levels)
            prepared = torch.from_numpy(floats).permute(0, 3, 1, 2)
        else:
            table = self.table(role, ids, np.arange(len(images)).reshape(shape))
            prepared = self.augmented(images, torch.from_numpy(table).to(images.device))
        return prepared.unflatten(0, shape)

    def _draws(self, role: str, ids: np.ndarray, n_images: int) -> Draws:
        return draw_augmentations(
            self.seed, role, ids, n_images, crop_padding=self.crop_padding, jitter=self.jitter, flip=self.flip
        )

    def _levels_on(self, device: torch.device) -> Tensor:
        """Return the normalised value for each channel and level on a device, copied there once."""
        if device not in self._levels_by_device:
            self._levels_by_device[device] = torch.from_numpy(self._levels).to(device)
        return self._levels_by_device[device]


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Return images (N, h, w, 3) uint8 as (N, size, size, 3), resized as by PIL (bicubic)."""
    pictures = (Image.fromarray(image) for image in images)
    return np.stack([np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)) for picture in pictures])


def _augmentation_for(device_type: str) -> Callable[[Tensor, Tensor, bool, Tensor], Tensor]:
    """Return the form of augmentation for an accelerator: one Triton kernel on NVIDIA GPUs, else torch operations."""
    if device_type == "cuda" and find_spec("triton") is not None:
        from fewshot.images.augment_triton import augment_on_gpu  # loads triton, which CPU builds of torch lack

        return augment_on_gpu
    return augment_batch


def normalized_levels(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the normalised value for each channel and level, (3, 256) float32, rounded as in torchvision."""
    levels = torch.arange(256, dtype=torch.float32) / 255
    return ((levels - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]).numpy()
