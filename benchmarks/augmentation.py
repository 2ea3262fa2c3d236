"""Augmentation of training images: the kernel and the batched form against torchvision on PIL images, on one core.

Run from the root of the repository: python -m benchmarks.augmentation
"""

import numpy as np
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from benchmarks.measure import table, take_turns, write_section
from PIL import Image

from fewshot.episodes.batch import EpisodeBatch
from fewshot.images.augment_batched import augment_batch
from fewshot.images.augment_draws import BRIGHTNESS, CONTRAST, JITTER_ORDERS, SATURATION, Draws, draw_augmentations
from fewshot.images.preprocess import Preprocess, normalized_levels

MEAN, STD, JITTER = (0.507, 0.486, 0.441), (0.267, 0.256, 0.276), 0.4
ADJUST = {BRIGHTNESS: TF.adjust_brightness, CONTRAST: TF.adjust_contrast, SATURATION: TF.adjust_saturation}
FORMS = [(32, 4, 420), (84, 8, 105)]
ROUNDS = 9
TARGETS = {32: 25, 84: 8}


def main() -> None:
    rows = [measure(size, crop_padding, n_images) for size, crop_padding, n_images in FORMS]
    header = ["image side", "images", "PIL, images/s", "kernel / PIL", "target", "batched torch / PIL", "levels apart"]
    write_section(
        "augmentation",
        "Augmentation",
        [
            "Random crop of the padded image, brightness, contrast and saturation in random order, horizontal flip, "
            "normalisation: from stored 8-bit images to the backbone's float input, random draws included. The "
            "baseline is MetaOptNet's sequence of torchvision transforms, applied to one PIL image at a time, then "
            f"stacked. Medians of CPU time over {ROUNDS} interleaved rounds. In the same run both forms are compared "
            "with torchvision on PIL images with the same draws, image by image; the last column is the largest "
            "difference, in levels of 255.",
            table(header, rows),
        ],
        packages=("torchvision", "numba", "pillow"),
    )


def measure(size: int, crop_padding: int, n_images: int) -> list[str]:
    """Time the three ways on images of one size; return a row of the table."""
    stored = smooth_images(n_images, size)
    preprocess = Preprocess(size, mean=MEAN, std=STD, crop_padding=crop_padding, jitter=JITTER, flip=True)
    batch = one_episode(stored)
    transform = T.Compose(
        [
            T.RandomCrop(size, padding=crop_padding),
            T.ColorJitter(JITTER, JITTER, JITTER),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )

    levels = torch.from_numpy(normalized_levels(MEAN, STD))

    def draws() -> Draws:
        return draw_augmentations(
            0, "query", np.zeros(1, np.int64), n_images, crop_padding=crop_padding, jitter=JITTER, flip=True
        )

    def batched() -> torch.Tensor:
        table = draws().table(np.arange(n_images), crop_padding)
        return augment_batch(torch.from_numpy(stored), torch.from_numpy(table), jitter=True, levels=levels)

    seconds = take_turns(
        {
            "pil": lambda: torch.stack([transform(Image.fromarray(image)) for image in stored]),
            "kernel": lambda: preprocess(batch, training=True),
            "batched": batched,
        },
        ROUNDS,
    )
    kernel_images = preprocess(batch, training=True).query_images[0].permute(0, 2, 3, 1)
    apart = max(levels_apart(images, stored, draws(), crop_padding) for images in (kernel_images, batched()))
    assert apart == 0, f"{apart} of 255 levels away from PIL at {size} pixels"
    ratio = seconds["pil"] / seconds["kernel"]
    return [
        f"{size}",
        f"{n_images}",
        f"{n_images / seconds['pil']:,.0f}",
        f"**{ratio:.1f}**",
        f"{TARGETS[size]}",
        f"{seconds['pil'] / seconds['batched']:.1f}",
        f"{apart}",
    ]


def smooth_images(n: int, size: int) -> np.ndarray:
    """Return n photograph-like images, (n, size, size, 3) uint8: coarse random colours, enlarged."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size))) for image in coarse])


def one_episode(stored: np.ndarray) -> EpisodeBatch:
    """Return an episode whose query images are `stored`, (n, size, size, 3), and whose support is empty."""
    images = torch.from_numpy(stored).permute(0, 3, 1, 2)[None]
    labels = torch.zeros(1, len(stored), dtype=torch.int64)
    return EpisodeBatch(images[:, :0], labels[:, :0], images, labels, torch.zeros(1, dtype=torch.int64), 1)


def levels_apart(images: torch.Tensor, stored: np.ndarray, draws: Draws, crop_padding: int) -> int:
    """Return the largest difference from torchvision on PIL images with the same draws, in levels of 255.

    Args:
        images: (n, size, size, 3) float32, normalised.
        stored: (n, size, size, 3) uint8.
        draws: for n images.
        crop_padding: pixels.
    """
    levels = ((images * torch.tensor(STD) + torch.tensor(MEAN)) * 255).round().int().numpy()
    expected = np.stack([augment_picture(image, draws, i, crop_padding) for i, image in enumerate(stored)])
    return int(np.abs(levels - expected).max())


def augment_picture(image: np.ndarray, draws: Draws, i: int, crop_padding: int) -> np.ndarray:
    """Apply row i of the draws by torchvision on PIL."""
    size = len(image)
    picture = TF.crop(TF.pad(Image.fromarray(image), crop_padding), int(draws.top[i]), int(draws.left[i]), size, size)
    for operation in JITTER_ORDERS[draws.order[i]]:
        picture = ADJUST[operation](picture, float(draws.factors[i, operation]))
    return np.asarray(TF.hflip(picture) if draws.flip[i] else picture, dtype=np.int32)


if __name__ == "__main__":
    main()
