"""`workflow/install.sh` installs what the lock file names, from where pip is configured to look, and nothing else."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "workflow" / "install.sh"
METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
TAG = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with an empty virtual environment and, in `wheels`, the only package there is."""
    folder = tmp_path_factory.mktemp("install")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (folder / "wheels").mkdir()
    with zipfile.ZipFile(folder / "wheels" / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "value = 1\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", TAG)
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\ntiny-1.0.dist-info/METADATA,,\n")
    return folder


@pytest.fixture
def install(folder):
    """Return a function that installs a lock file with a hash, and returns the finished process."""

    def run(digest: str, installer: str) -> subprocess.CompletedProcess[str]:
        (folder / "requirements.lock").write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
        environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels")}
        command = ["sh", SCRIPT, "venv", "default", installer]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_a_file_with_another_hash_is_refused(folder, install):
    done = install("0" * 64, "pip")
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert not list(folder.glob("venv/lib/*/site-packages/tiny.py"))


def test_without_uv_pip_installs_and_says_so(folder, install):
    [wheel] = (folder / "wheels").iterdir()
    done = install(hashlib.sha256(wheel.read_bytes()).hexdigest(), "uv")
    assert done.returncode == 0, done.stderr
    assert "pip goes on, four times as slowly" in done.stderr
    assert list(folder.glob("venv/lib/*/site-packages/tiny.py"))


def test_uv_asks_no_index_where_pip_must_not(folder, install):
    uv = folder / "venv" / "bin" / "uv"
    uv.write_text('#!/bin/sh\necho "$UV_FIND_LINKS" "$@" > called\n')
    uv.chmod(0o755)
    done = install("0" * 64, "uv")
    uv.unlink()
    assert done.returncode == 0, done.stderr
    called = (folder / "called").read_text().split()
    assert called[0] == str(folder / "wheels")
    assert "--no-index" in called
