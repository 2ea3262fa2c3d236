"""Runs experiments on a machine without network: verifies and unpacks a bundle, trains, evaluates, packs the results.

A bundle contains a copy of this file as `run.py`. It needs Python, torch and the packages that the bundle does not
bring. The parts of a bundle may arrive one after the other, each time with `run.py` and `bundle.json`:

    python run.py --into work                              # until all parts are there: keeps those that are
    python run.py --into work --minutes 9 --out results    # then runs; may be repeated until everything is finished

What is stopped by the time limit saves its state and resumes in the next call.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

CONTENTS = "bundle.json"
CHUNK = 2**20
GRACE_S = 90.0  # for a stopped training to finish its step and save its state
STOPPED = 130  # exit status of a command that was asked to stop
NOT_SENT = ("checkpoint-previous.pt",)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--into", type=Path, default=Path("fewshot-work"), help="working folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("fewshot-results"), help="gets the results, in parts")
    parser.add_argument("--minutes", type=positive(float), default=60.0, help="stop in good order after this time")
    parser.add_argument("--jobs", type=positive(int), default=1, help="trainings at a time (see train.jobs_per_gpu)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only trainings with this text in their name")
    parser.add_argument("--part-mb", type=positive(float), default=15.0, help="largest part of the results, 10^6 bytes")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    folder = Path(__file__).resolve().parent
    bundle = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
    project = options.into.resolve()
    if missing := receive(bundle, folder, project):
        print(f"received {len(bundle['parts']) - len(missing)} of {len(bundle['parts'])} parts; missing: {missing}")
        return
    chains = [chain for chain in bundle["chains"] if any(options.only in name for name, _ in chain["train"])]
    if not chains:
        known = ", ".join(name for chain in bundle["chains"] for name, _ in chain["train"])
        raise Refused(f"error: --only {options.only}: no training has this in its name; the bundle has {known}")
    work = Work(project, bundle["suite"], deadline)
    signal.signal(signal.SIGTERM, lambda *_: work.stop())
    with ThreadPoolExecutor(options.jobs) as workers:
        list(workers.map(work.run_chain, chains))
    work.timer.cancel()
    pack_results(project, bundle["suite"], chains, options.out, int(1e6 * options.part_mb))
    sys.exit(1 if work.failed else 0)


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return a reader of numbers above 0, for argparse."""

    def read(text: str) -> float:
        if (number := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not allowed: give a number above 0")
        return number

    read.__name__ = kind.__name__  # argparse names it in its message about text that is no number
    return read


def receive(bundle: dict[str, Any], folder: Path, project: Path) -> list[str]:
    """Keep the parts that are there and unpack the bundle when it is complete; return the parts that are missing."""
    unpacked = project / "unpacked.txt"
    if unpacked.is_file() and unpacked.read_text() == bundle["sha256"]:
        return []
    received = project / "received" / bundle["sha256"]
    received.mkdir(parents=True, exist_ok=True)
    for part in bundle["parts"]:
        if (folder / part["name"]).is_file() and not (received / part["name"]).is_file():
            check_part(folder, part)
            shutil.copyfile(folder / part["name"], received / "arriving")
            (received / "arriving").rename(received / part["name"])
    missing = [part["name"] for part in bundle["parts"] if not (received / part["name"]).is_file()]
    if not missing:
        extract_parts(received, bundle["parts"], project)
        install_missing(project / "wheels", project / "site", bundle["python"])
        unpack_stores(project, bundle["stores"])
        unpacked.write_text(bundle["sha256"])
        shutil.rmtree(project / "received")
    return missing


def install_missing(wheels: Path, site: Path, python: str) -> None:
    """Unpack the wheels of packages that this Python does not have.

    Args:
        wheels: folder of the wheels.
        site: folder to unpack them to.
        python: version of Python that the wheels are for.

    Raises:
        Refused: if this is another version.
    """
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for wheel in sorted(wheels.glob("*.whl")):
        name = wheel.name.partition("-")[0].replace("_", "-")
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if own != python:
                raise Refused(
                    f"error: Python {own} lacks {name}, and the bundle's packages are for Python {python}; make it "
                    f"with --python-version {own}"
                ) from None
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)


def unpack_stores(project: Path, stores: Sequence[Sequence[str]]) -> None:
    """Write the arrays of the prepared data sets from their sheets."""
    sys.path[:0] = python_path(project)
    from fewshot.sharing.image_sheets import unpack_store

    for sheets, store in stores:
        unpack_store(project / sheets, project / store)
        shutil.rmtree(project / sheets)


def python_path(project: Path) -> list[str]:
    """Return the folders of the project's and of the bundle's packages."""
    return [str(project / "src"), str(project / "site")]


class Work:
    """Runs commands of the project until a deadline; then stops those that run in good order.

    Args:
        project: its folder.
        suite: of the experiments.
        deadline: by `time.monotonic`.
    """

    def __init__(self, project: Path, suite: str, deadline: float) -> None:
        self.project, self.suite = project, suite
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped, self.failed = threading.Event(), False
        self.timer = threading.Timer(max(0.0, deadline - time.monotonic()), self.stop)
        self.timer.daemon = True
        self.timer.start()
        (project / "logs").mkdir(exist_ok=True)

    def run_chain(self, chain: dict[str, Any]) -> None:
        """Train and then evaluate, as far as there is time."""
        commands = [["train", *named(job)] for job in chain["train"]]
        commands += [["evaluate", *named(job), "--target", job[2]] for job in chain["evaluate"]]
        for command in commands:
            if self.stopped.is_set() or self._run(command) != 0:
                return

    def stop(self) -> None:
        """Ask all running commands to save their state and end; start no others."""
        self.stopped.set()
        for process in list(self.running):
            process.terminate()

    def _run(self, command: Sequence[str]) -> int:
        """Run one command; return its exit status."""
        log = self.project / "logs" / f"{command[0]}-{command[1]}-{command[3]}.log"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path(self.project)), "PYTHONUNBUFFERED": "1"}
        arguments = [sys.executable, "-m", "fewshot", *command, "--suite", self.suite]
        started = time.monotonic()
        with log.open("ab") as output:
            process = subprocess.Popen(arguments, cwd=self.project, env=environment, stdout=output, stderr=output)
            self.running.add(process)
            if self.stopped.is_set():  # between the check and the start
                process.terminate()
            status = self._wait(process)
            self.running.discard(process)
        self.failed |= status not in (0, STOPPED)
        last = log.read_bytes().decode(errors="replace").replace("\r", "\n").rstrip().rpartition("\n")[2]
        print(f"{command[0]} {command[1]}: {time.monotonic() - started:.0f} s, exit {status}: {last}", flush=True)
        return status

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for a process; end one that does not stop in time."""
        asked: float | None = None
        while True:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                if self.stopped.is_set():
                    asked = asked or time.monotonic()
                    if time.monotonic() - asked > GRACE_S:
                        process.kill()


def named(job: Sequence[str]) -> list[str]:
    """Return the arguments that name a job and refuse another key."""
    return [job[0], "--key", job[1]]


def pack_results(project: Path, suite: str, chains: Sequence[dict[str, Any]], out: Path, part_bytes: int) -> None:
    """Write results, and apart from them checkpoints of what is unfinished, in parts that `fewshot unbundle` reads."""
    keys = [("train", job[1]) for chain in chains for job in chain["train"]]
    keys += [("evaluate", job[1]) for chain in chains for job in chain["evaluate"]]
    entries = [project / "cache" / stage / key for stage, key in dict.fromkeys(keys)]
    finished = [entry for entry in entries if (entry / "result").is_dir()]
    kinds = {"results": finished, "checkpoints": [entry for entry in entries if entry not in finished]}
    archives, said = {}, ""
    for kind, chosen in kinds.items():
        files = [(file, file.relative_to(project / "cache")) for entry in chosen for file in job_files(entry)]
        archives[kind] = write_parts(files, out, kind, part_bytes)
        parts = len(archives[kind]["parts"])
        said += f"; {parts} part{'s' if parts > 1 else ''} of {kind}" if files else ""
    (out / "results.json").write_text(json.dumps({"suite": suite, "archives": archives}, indent=1))
    print(f"{len(finished)} of {len(entries)} jobs finished{said} in {out}")


def job_files(entry: Path) -> list[Path]:
    """Return the files to send of a job's entry in the cache: its result, or what it needs to resume."""
    kind = "result" if (entry / "result").is_dir() else "checkpoints"
    found = [file for file in sorted((entry / kind).rglob("*")) if file.is_file() and file.name not in NOT_SENT]
    return [*found, *(file for file in (entry / "names.txt",) if found and file.is_file())]


def write_parts(files: Sequence[tuple[Path, Path]], folder: Path, name: str, part_bytes: int) -> dict[str, Any]:
    """Write files as one archive in parts.

    Args:
        files: each with its name in the archive.
        folder: created; gets `<name>-<number>.part` instead of those that are there.
        name: of the parts.
        part_bytes: largest size of a part.

    Returns:
        The SHA-256 of the archive, and name, size and SHA-256 of each part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-*.part"):
        old.unlink()
    archive = folder / f".{name}.tar"
    with tarfile.open(archive, "w") as opened:
        for file, arcname in files:
            opened.add(file, arcname.as_posix())
    parts: list[dict[str, Any]] = []
    whole, total = hashlib.sha256(), archive.stat().st_size
    with archive.open("rb") as source:
        while (start := source.tell()) < total:
            part, digest = folder / f"{name}-{len(parts) + 1}.part", hashlib.sha256()
            with part.open("wb") as target:
                while chunk := source.read(min(CHUNK, start + part_bytes - source.tell())):
                    digest.update(chunk)
                    whole.update(chunk)
                    target.write(chunk)
            parts.append({"name": part.name, "bytes": source.tell() - start, "sha256": digest.hexdigest()})
    archive.unlink()
    return {"sha256": whole.hexdigest(), "parts": parts}


class Refused(SystemExit):
    """An option or a part cannot be used; ends the script with this message."""


def check_part(folder: Path, part: dict[str, Any]) -> None:
    """Raise `Refused` if a part changed on its way."""
    with (folder / part["name"]).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != part["sha256"]:
        raise Refused(f"error: {folder / part['name']}: damaged (its sha256 differs); send it again")


def extract_parts(folder: Path, parts: Sequence[dict[str, Any]], into: Path) -> None:
    """Extract the archive that parts form: files only, and only below `into`.

    Raises:
        Refused: at anything else.
    """
    with tarfile.open(fileobj=cast(IO[bytes], _Joined(folder, parts)), mode="r|") as archive:
        for member in archive:
            name, content = PurePosixPath(member.name), archive.extractfile(member) if member.isreg() else None
            if content is None or name.is_absolute() or ".." in name.parts:
                raise Refused(f"error: {folder}: contains {member.name!r}, which is no file below the folder")
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with (into / name).open("wb") as file:
                shutil.copyfileobj(content, file)


class _Joined:
    """The bytes of several files, one after the other."""

    def __init__(self, folder: Path, parts: Sequence[dict[str, Any]]) -> None:
        self._chunks = self._read(folder, parts)
        self._held = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer than `size` only at the end."""
        while len(self._held) < size and (chunk := next(self._chunks, b"")):
            self._held += chunk
        result, self._held = self._held[:size], self._held[size:]
        return result

    @staticmethod
    def _read(folder: Path, parts: Sequence[dict[str, Any]]) -> Iterator[bytes]:
        for part in parts:
            with (folder / part["name"]).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk


if __name__ == "__main__":
    main()
