"""What a benchmark found: lines as it goes, one JSON file and Markdown tables at the end."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Outcome = tuple[str, bool | None, dict[str, Any]]
"""The result in words, whether it is good (None: a measurement), and the numbers."""

MARKS = {True: "ok  ", False: "FAIL", None: "    "}


@dataclass(frozen=True)
class Finding:
    """The result of one case.

    Attributes:
        part: part of the benchmark.
        case: what was checked or measured.
        text: the result in words.
        passed: whether a check holds; None for a measurement.
        numbers: the result as plain values.
    """

    part: str
    case: str
    text: str
    passed: bool | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One thing to check or to measure.

    Attributes:
        part: part of the benchmark.
        name: what is checked or measured.
        run: does it.
    """

    part: str
    name: str
    run: Callable[[], Outcome]


def run_cases(cases: Sequence[Case], began: float, deadline: float) -> list[Finding]:
    """Run cases until the deadline (both times of `time.monotonic`), printing a line for each; faults are findings."""
    findings = []
    for case in cases:
        if time.monotonic() > deadline:
            found = Finding(case.part, case.name, "not run: no time left", None, {"skipped": True})
        else:
            found = _run(case)
        print(f"[{time.monotonic() - began:5.0f} s] {MARKS[found.passed]} {found.case}: {found.text}", flush=True)
        findings.append(found)
    return findings


def _run(case: Case) -> Finding:
    """Run one case; one broken part must not hide the others."""
    try:
        text, passed, numbers = case.run()
    except Exception as fault:
        text, passed, numbers = f"{type(fault).__name__}: {str(fault)[:300]}", False, {"fault": type(fault).__name__}
    return Finding(case.part, case.name, text, passed, numbers)


def write_json(path: Path, about: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Write everything that was found."""
    content = {"about": about, "findings": [asdict(finding) for finding in findings]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Read what `write_json` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["about"], [Finding(**finding) for finding in content["findings"]]
