"""What the device can do at best: matrix products, copies, launches. The yardstick of the timed steps."""

import time
from collections.abc import Callable
from functools import partial

import torch
from benchmarks.gpu.families import Scale
from benchmarks.gpu.findings import Case, Outcome

SIDE, BYTES, REPEATS = 8192, 2**30, 10


def cases(scale: Scale) -> list[Case]:
    """Return the cases of this part."""
    found = [(f"matrix product, {precision}", partial(product, scale, precision)) for precision in MULTIPLY]
    found += [("copies", partial(copies, scale)), ("launches", partial(launches, scale))]
    return [Case("card", name, run) for name, run in found]


MULTIPLY = {"float32": (torch.float32, False), "tf32": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}


def product(scale: Scale, precision: str) -> Outcome:
    """Measure the rate of a square product of random matrices."""
    (dtype, tf32), side = MULTIPLY[precision], 128 if scale.tiny else SIDE
    a, b = (torch.randn(side, side, device=scale.device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        seconds = repeated(scale, lambda: a @ b)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    rate = 2 * side**3 / seconds
    return f"{rate / 1e12:.3g} TFLOP/s at {side} x {side}", None, {"precision": precision, "flop_per_s": rate}


def copies(scale: Scale) -> Outcome:
    """Measure copies within the device (bytes read and written), and to it from ordinary and pinned memory."""
    size = 2**16 if scale.tiny else BYTES
    source, target = (torch.zeros(size, dtype=torch.uint8, device=scale.device) for _ in range(2))
    rates = {"within": 2 * size / repeated(scale, lambda: target.copy_(source))}
    host = torch.zeros(size // 4, dtype=torch.uint8)
    rates["to_device"] = len(host) / repeated(scale, lambda: target[: len(host)].copy_(host))
    if scale.device.type == "cuda":
        pinned = host.pin_memory()
        rates["to_device_pinned"] = len(host) / repeated(scale, lambda: target[: len(host)].copy_(pinned))
    text = ", ".join(f"{name.replace('_', ' ')} {rate / 1e9:.3g} GB/s" for name, rate in rates.items())
    return text, None, {f"{name}_bytes_per_s": rate for name, rate in rates.items()}


def launches(scale: Scale) -> Outcome:
    """Measure the time of a launch when many are queued, and of one with a wait for its result."""
    number, value = 1000, torch.zeros(1, device=scale.device)

    def queue() -> None:
        for _ in range(number):
            value.add_(1)

    launch = repeated(scale, queue) / number
    wait = repeated(scale, lambda: value.add_(1).item())
    text = f"{1e6 * launch:.1f} us per queued operation, {1e6 * wait:.0f} us per operation with a wait"
    return text, None, {"launch_s": launch, "wait_s": wait}


def repeated(scale: Scale, work: Callable[[], object]) -> float:
    """Return the mean time of work, seconds, after two calls to warm up."""
    for _ in range(2):
        work()
    scale.synchronize()
    start = time.perf_counter()
    for _ in range(REPEATS):
        work()
    scale.synchronize()
    return (time.perf_counter() - start) / REPEATS
