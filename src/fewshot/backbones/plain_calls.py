"""Where hand-written forms of a layer apply: to ordinary numbers on a CPU, which nothing records or transforms."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing


def is_plain_call(maps: Tensor) -> bool:
    """Return whether maps are numbers on a CPU, at least one, not traced, exported, compiled or transformed.

    Elsewhere, what is computed outside torch would be recorded as a constant, or be missing from a count of operations.
    """
    return (
        type(maps) is Tensor
        and maps.device.type == "cpu"
        and maps.numel() > 0
        and not torch.compiler.is_compiling()
        and not is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
    )
