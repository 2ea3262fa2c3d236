"""The Triton kernel, run by Triton's interpreter, against the CPU kernel with the same draws: exactly equal."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import sys
import numpy as np
import torch
from fewshot.images.augment_draws import draw_augmentations
from fewshot.images.augment_kernel import augment_images
from fewshot.images.augment_triton import augment_on_gpu

random = np.random.default_rng(0)
levels = random.normal(size=(3, 256)).astype(np.float32)
for size, padding, jitter in [(32, 4, 0.4), (21, 3, 1.0), (33, 40, 0.0), (28, 0, 0.4)]:
    stored = random.integers(0, 256, (50, size, size, 3), np.uint8)
    stored[::3] //= 16  # flat and dark areas too
    rows = random.integers(0, 50, 24)
    draws = draw_augmentations(3, "query", np.arange(4), 6, crop_padding=padding, jitter=jitter, flip=True)
    expected = augment_images(stored[rows], draws, padding, jitter > 0, levels)
    table = torch.from_numpy(draws.table(rows, padding))
    channels_first = torch.from_numpy(stored).permute(0, 3, 1, 2).contiguous()
    for images in (torch.from_numpy(stored), channels_first.permute(0, 2, 3, 1)):
        found = augment_on_gpu(images, table, jitter > 0, torch.from_numpy(levels))
        np.testing.assert_array_equal(found.numpy(), expected)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="this build of torch comes without Triton")
def test_triton_kernel_equals_the_kernel_of_the_cpu():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)

    assert done.stdout.strip() == "equal", done.stderr
