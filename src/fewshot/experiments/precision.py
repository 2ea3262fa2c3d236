"""The precision of float32 products, which results depend on: full, on every device."""

import torch


def full_float32() -> None:
    """Multiply float32 numbers in full precision; torch lets convolutions on GPUs round them to TensorFloat-32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
