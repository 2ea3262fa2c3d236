"""A pretend GPU: a device whose tensors hold CPU data, so that code for GPUs runs, and is counted, on any machine.

A tensor on the device wraps a CPU tensor. Every operation on such tensors is computed on the CPU and wrapped again, but
with four traits of a GPU:
  * `tensor.device.type` is "pretend", so branches on the device take the way of a GPU;
  * an operation that mixes tensors of both devices raises `MixedDevices`, as CUDA does;
  * reading a value on the host (`.item()`, `.tolist()`, `.cpu()`, `nonzero`, boolean indexing) counts as a
    synchronisation, a copy of CPU data to the device as an upload, both with the place in the project that caused it;
  * operations that start kernels on a GPU are counted as launches; views are not.
"""

import traceback
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fewshot.experiments import build
from fewshot.images.preprocess import Preprocess

# Operations that only describe memory: no kernel runs.
FREE = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like"),
    *("empty_strided", "expand", "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "reshape"),
    *("select", "slice", "split", "split_with_sizes", "squeeze", "sym_size", "t", "transpose", "unbind", "unflatten"),
    *("unfold", "unsqueeze", "view"),
}
# Operations that change the shape of a tensor in place: that of the wrapper must follow.
RESHAPED = {"squeeze_", "unsqueeze_"}
FREE |= RESHAPED
# Kernels of operations that need several, as counted in CUDA builds of torch; all others need one.
KERNELS = {
    "_cholesky_solve_helper": 4,
    "cholesky_solve": 5,
    "convolution_backward": 2,
    "index_put_": 4,
    "linalg_cholesky_ex": 5,
    "linalg_lu": 6,
    "linalg_lu_factor_ex": 5,
    "linalg_lu_solve": 5,
    "linalg_solve_triangular": 3,
    "max_pool2d_with_indices_backward": 2,
    "native_batch_norm": 2,
    "native_batch_norm_backward": 2,
    "nonzero": 3,
    "sort": 3,
}
# The size of their result depends on values, so the host waits for it.
WAITING = {"_unique2", "equal", "masked_select", "nonzero", "unique_dim"}
INDEXING = {"_index_put_impl_", "_unsafe_index", "index", "index_put_"}
# The names under which devices outside torch dispatch convolutions.
OVERRIDABLE = {
    "convolution_overrideable": torch.ops.aten.convolution.default,
    "convolution_backward_overrideable": torch.ops.aten.convolution_backward.default,
}


class MixedDevices(RuntimeError):
    """An operation on tensors of both devices, which fails on a GPU."""


@dataclass
class Counts:
    """What happened on the device since counting began.

    Attributes:
        operations: number of each operation that starts kernels, by name.
        launches: kernels, an estimate by `KERNELS`.
        synchronisations: times the host waited, by operation and place.
        uploads: copies from the host to the device, by place.
    """

    operations: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    synchronisations: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)


class _Backend(types.ModuleType):
    """What torch asks of a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Its tensors are computed on the CPU, whose generator is seeded too."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class PretendTensor(Tensor):
    """A tensor on the pretend device; `held` is its CPU tensor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PretendTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("pretend", 0),
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"PretendTensor({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendTensor":
        return PretendTensor(self.held.clone()).requires_grad_(self.requires_grad)

    def tolist(self) -> Any:
        """Return the values as Python numbers; the host waits for them."""
        _DEVICE.counts.synchronisations[f"tolist at {_place()}"] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _DEVICE.run(function, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Shows the device every operation, also those that create tensors on it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _DEVICE.run(function, args, kwargs or {})


class PretendGPU:
    """The device: computes operations and counts them."""

    def __init__(self) -> None:
        _setup_privateuseone_for_python_backend("pretend", backend_module=_Backend("pretend"))
        self._autocast = _register_autocast()
        self.device = torch.device("pretend", 0)
        self.counts = Counts()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count what happens in a `with` block."""
        self.counts = Counts()
        yield self.counts

    def run(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute one operation."""
        name = function._schema.name.partition("::")[2]
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if not ours and wanted != "pretend":
            return function(*args, **kwargs)
        if name == "_local_scalar_dense":
            self.counts.synchronisations[f"item at {_place()}"] += 1
            return ours[0].held.item()
        if name in ("_to_copy", "copy_"):
            return self._copy(name, function, args, kwargs, wanted)
        self._check_devices(function, name, tensors)
        if name in WAITING or (name == "index" and any(tensor.dtype == torch.bool for tensor in tensors[1:])):
            self.counts.synchronisations[f"{name} at {_place()}"] += 1
        return self._compute(name, function, args, kwargs)

    def _copy(self, name: str, function: Any, args: Any, kwargs: dict[str, Any], wanted: str | None) -> Any:
        """Copy within the device, to the host or from it."""
        source = args[0] if name == "_to_copy" else args[1]
        to_host = wanted == "cpu" or (name == "copy_" and not isinstance(args[0], PretendTensor))
        if to_host:
            self.counts.synchronisations[f"copy to the host at {_place()}"] += 1
            return function(*tree_map(_held, args), **kwargs)
        if not isinstance(source, PretendTensor):
            self.counts.uploads[_place()] += 1
            if name == "_to_copy" and source.device.type == "cpu":
                args = (source.clone(), *args[1:])  # a copy even where neither type nor layout change
        return self._compute(name, function, args, kwargs)

    def _check_devices(self, function: Any, name: str, tensors: list[Tensor]) -> None:
        """Reject host tensors among tensors of the device; numbers and indices are allowed, as CUDA allows them."""
        strangers = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim() > 0]
        if len(strangers) == len(tensors) or not strangers:
            return
        if name not in INDEXING:
            raise MixedDevices(f"{function}: a CPU tensor {tuple(strangers[0].shape)} with tensors of the GPU")
        self.counts.uploads[f"index at {_place()}"] += 1

    def _compute(self, name: str, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute on the CPU and wrap the results."""
        held_args, held_kwargs = tree_map(_held, (tuple(args), kwargs))
        if held_kwargs.get("device") is not None:
            held_kwargs["device"] = torch.device("cpu")
        if name == "convolution_backward_overrideable":  # has no place for the size of the bias
            held_args = (*held_args[:3], None, *held_args[3:])
        result = OVERRIDABLE.get(name, function)(*held_args, **held_kwargs)
        if name not in FREE:
            self.counts.operations[name] += 1
            self.counts.launches += KERNELS.get(name.replace("_overrideable", ""), 1)
        if name in RESHAPED:
            with torch._C._DisableTorchDispatch():
                function(*args, **kwargs)
        if name.endswith("_") and not name.endswith("__") and isinstance(args[0], PretendTensor):
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(lambda value: PretendTensor(value) if isinstance(value, Tensor) else value, result)


def _register_autocast() -> list[torch.library.Library]:
    """Let `torch.autocast` convert the inputs of convolutions, as on other devices; return what must be kept alive."""
    key = torch._C.DispatchKey.AutocastPrivateUse1
    everything = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel)
    convolutions = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")

    def conv2d(images: Tensor, weight: Tensor, bias: Tensor | None = None, *arguments: Any) -> Tensor:
        wanted = torch.get_autocast_dtype("pretend")
        images, weight, bias = (None if part is None else part.to(wanted) for part in (images, weight, bias))
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return torch.ops.aten.conv2d.default(images, weight, bias, *arguments)

    convolutions.impl("conv2d", conv2d)
    return [everything, convolutions]


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendTensor) else value


def _place() -> str:
    """Return file and line of the project's code that called."""
    for frame in reversed(traceback.extract_stack()):
        if "/fewshot/" in frame.filename:
            return f"{frame.filename.rpartition('/fewshot/')[2]}:{frame.lineno}"
    return "a test"


# Registered when tests are collected: torch's autograd only knows devices registered before its first backward pass.
_DEVICE = PretendGPU()
_module_to = nn.Module.to
_torch_tensor = torch.tensor


def _move(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to` with the pretend device: parameters are replaced, since they become tensors of another class."""
    device = kwargs.get("device", next((a for a in args if isinstance(a, (torch.device, str))), None))
    if device is None or torch.device(device).type != "pretend":
        return _module_to(module, *args, **kwargs)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter.data, PretendTensor):
                held = PretendTensor(parameter.detach().clone())
                part._parameters[name] = nn.Parameter(held, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, PretendTensor):
                part._buffers[name] = PretendTensor(buffer.clone())
    return module


def _tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    """`torch.tensor`, which fills a device's memory without an operation that Python sees."""
    made = _torch_tensor(data, *args, **kwargs)
    return made if device is None else made.to(device)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGPU]:
    """Return the pretend GPU; its operations work within the test."""
    monkeypatch.setattr(nn.Module, "to", _move)
    monkeypatch.setattr(torch, "tensor", _tensor)
    with _Everywhere():
        yield _DEVICE


class Float64Preprocess(Preprocess):
    """Preprocessing whose images are float64, so that devices differ only by the order of sums."""

    def images(self, images: Any) -> Tensor:
        """Return test images in float64."""
        return super().images(images).double()

    def augmented(self, stored: Tensor, table: Tensor) -> Tensor:
        """Return augmented images in float64."""
        return super().augmented(stored, table).double()

    def episodes(self, images: Tensor, role: str, ids: np.ndarray, training: bool) -> Tensor:
        """Return the images of episodes in float64."""
        return super().episodes(images, role, ids, training).double()


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training and evaluation prepare images in float64."""
    monkeypatch.setattr(build, "Preprocess", Float64Preprocess)
