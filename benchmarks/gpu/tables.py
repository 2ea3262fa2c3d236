"""Markdown of what was found."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.families import Scale, trainings_of_suites
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.hours import estimates
from benchmarks.measure import SECTIONS, table

from fewshot.training.devices import describe

TINY = "A tiny run, to see that the program works: its times say nothing."


def about_device(scale: Scale) -> dict[str, Any]:
    """Return the device and the versions that the numbers depend on."""
    described = describe(scale.device)
    about = {"device": described["device_name"], "cores": os.cpu_count(), "python": described["python"]}
    about |= described["versions"]
    if scale.device.type == "cuda":
        properties = torch.cuda.get_device_properties(scale.device)
        about |= {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return {**about, "tiny": scale.tiny}


def markdown(about: dict[str, Any], findings: Sequence[Finding]) -> str:
    """Return all tables."""
    versions = ", ".join(f"{name} {value}" for name, value in about.items() if name not in ("device", "tiny"))
    sections = [f"# On a GPU: {about['device']}", f"Made by `python -m benchmarks.gpu`; {versions}."]
    sections += [TINY] if about["tiny"] else []
    sections += ["## The card", *_card(findings)]
    sections += ["## Outer steps", *_timing(findings)]
    sections += ["## Hours per training", *_hours(findings)]
    sections += ["## Checks", *_checks(findings)]
    return "\n\n".join(sections) + "\n"


def write_page(about: dict[str, Any], findings: Sequence[Finding]) -> Path:
    """Write the page of the documentation."""
    page = SECTIONS / "gpu.md"
    page.write_text(markdown(about, findings), encoding="utf-8")
    print(f"wrote {page}")
    return page


def _card(findings: Sequence[Finding]) -> list[str]:
    return ["\n".join(f"- {found.case}: {found.text}" for found in findings if found.part == "card")]


def _timing(findings: Sequence[Finding]) -> list[str]:
    rates = {
        found.numbers["precision"]: found.numbers["flop_per_s"]
        for found in findings
        if found.part == "card" and "flop_per_s" in found.numbers
    }
    originals = {
        found.numbers["training"]: found.numbers["step_s"]
        for found in findings
        if found.part == "original" and "step_s" in found.numbers
    }
    timed = [found.numbers for found in findings if found.part == "timing" and "step_s" in found.numbers]
    header = [
        *("outer step", "precision", "ms", "original loop, ms", "times as fast", "kernels", "launches", "waits"),
        *("busy", "peak GiB", "TFLOP/s", "share of the card's"),
    ]
    rows = [_timing_row(numbers, rates, originals) for numbers in timed]
    explained = (
        "One outer step with everything it needs, from stored images to updated weights. Waits: times the host waits "
        "for the device. Busy: share of the time in which a kernel or copy runs. The last column compares with a large "
        "matrix product in the same precision (bfloat16 only in the backbone). The original loop is described in "
        "`benchmarks/gpu/original.py`."
    )
    return [explained, table(header, rows)]


def _timing_row(numbers: dict[str, Any], rates: dict[str, float], originals: dict[str, float]) -> list[str]:
    rate, original = numbers["flop"] / numbers["step_s"], originals.get(numbers["training"])
    best = rates.get(numbers["precision"])
    on_gpu = "kernels" in numbers
    return [
        numbers["label"],
        numbers["precision"],
        f"{1e3 * numbers['step_s']:.1f}",
        "" if original is None else f"{1e3 * original:.1f}",
        "" if original is None else f"{original / numbers['step_s']:.2f}",
        *((f"{numbers['kernels']:,}", f"{numbers['launches']:,}", f"{numbers['waits']}") if on_gpu else [""] * 3),
        *((f"{numbers['busy']:.0%}", f"{numbers['peak_bytes'] / 2**30:.1f}") if on_gpu else [""] * 2),
        f"{rate / 1e12:.3g}",
        "" if best is None else f"{rate / best:.0%}",
    ]


def _hours(findings: Sequence[Finding]) -> list[str]:
    found = {estimate.training: estimate for estimate in estimates(findings)}
    precisions = list(dict.fromkeys(name for estimate in found.values() for name in estimate.hours))
    explained = (
        "Estimated from the steps above: all steps of a training and its validations, on one card of this kind, "
        "without downloads and the test. *Scaled*: from the step of a training with the same backbone and image size, "
        "by the number of images per step; its head may be another one."
    )
    paragraphs = [explained]
    for suite, names in trainings_of_suites().items():
        rows = []
        for name in names:
            if name in found:
                hours = [f"{found[name].hours[key]:.2f}" if key in found[name].hours else "" for key in precisions]
                rows.append([name, *hours, found[name].source])
            else:
                rows.append([name, *[""] * len(precisions), "not timed"])
        paragraphs.append(
            f"**{suite}**\n\n" + table(["training", *(f"{name}, h" for name in precisions), "step"], rows)
        )
    return paragraphs


def _checks(findings: Sequence[Finding]) -> list[str]:
    judged = [found for found in findings if found.passed is not None]
    failed = [found for found in judged if not found.passed]
    skipped = [found for found in findings if found.numbers.get("skipped")]
    summary = (
        f"{len(judged) - len(failed)} of {len(judged)} passed, {len(skipped)} cases were not run for lack of time."
    )
    rows = [[found.case, "yes" if found.passed else "**no**", found.text.replace("|", "/")] for found in judged]
    return [summary, table(["check", "passed", "result"], rows)]
