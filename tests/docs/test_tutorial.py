"""docs/tutorial.md, followed line by line: files are written, commands run, and their output is the one shown."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = "docs/tutorial.md"
PLACE = re.compile(r"# (\S+\.(?:py|yaml))\n")


def masked(text: str) -> list[str]:
    """Return lines without what varies with the code or the processor: keys, accuracies, columns made for them."""
    without = re.sub(r"\b[0-9a-f]{12}\b", "KEY", text)
    numbers = re.sub(r"(< )?(?<![\w-])[+-]?\d+\.\d+\b", "N", without)
    return [re.sub(r"(-{3,}| +)", " ", line).strip() for line in numbers.splitlines()]


@pytest.fixture
def clone(project_copy, root) -> Path:
    folder = project_copy()
    for name in ("workflow", "profiles"):
        shutil.copytree(root / name, folder / name)
    shutil.copyfile(root / "Snakefile", folder / "Snakefile")
    return folder


@pytest.fixture
def run(clone):
    """Return a function that runs commands in the clone and returns the lines of their output."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone / "src"),
    }

    def lines(commands: str) -> list[str]:
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(["bash", "-ec", commands], cwd=clone, env=environment, timeout=1500, **both)
        assert done.returncode == 0, done.stdout
        return masked(done.stdout)

    return lines


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_commands_print_what_is_shown(clone, run, code_blocks):
    printed: list[str] = []
    for language, text in code_blocks(PAGE):
        if language == "sh":
            printed = run(text)
        elif language == "text":
            assert [line for line in masked(text) if line not in printed] == [], "\n".join(printed)
        else:
            (clone / PLACE.match(text)[1]).write_text(text, encoding="utf-8")
