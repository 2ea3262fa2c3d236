"""One file over an unreliable network: mirrors in order, resuming, retries; a partial file never passes as complete.

During the transfer the file is stored next to its destination as `.<name>.partial`; it is moved into place in one step
once its length and checksum are verified. Each file is locked, so that two processes do not write the same one.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from tqdm import tqdm

from fewshot import __version__
from fewshot.datasets.archives import first_bytes, looks_like_page
from fewshot.datasets.disk import require_space
from fewshot.errors import DataError, reason_of
from fewshot.files import cannot_write

log = logging.getLogger(__name__)

ATTEMPTS = 4
PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
TIMEOUT_S = (15, 60)  # to connect, to receive the next bytes
CHUNK_BYTES = 1 << 16  # an interrupted chunk is fetched again
SPARE_BYTES = 100 << 20
MAX_REDIRECTS = 10
WEB_PAGE = "it sends a web page (an error, a login or a quota notice) instead of the file"
USER_AGENT = f"fewshot-workflow/{__version__}"


@dataclass(frozen=True)
class Checksum:
    """The expected hash of a file; `algorithm` is "md5" or "sha256", `origin` where it comes from, for messages."""

    algorithm: str
    value: str
    origin: str = ""


class MirrorError(Exception):
    """An address does not serve the file; `final` if retrying is useless."""

    def __init__(self, reason: str, final: bool = False, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.final = final
        self.wait_s = wait_s


def fetch_file(
    addresses: Sequence[str], target: Path, checksum: Checksum | None = None, pause_s: float = PAUSE_S
) -> str:
    """Download a file from the first address that serves it completely; an existing file is only checked.

    Args:
        addresses: mirrors, in the order in which they are tried.
        target: path of the file; its folder is created if missing.
        checksum: expected hash, if known.
        pause_s: seconds before the second attempt; doubled for each further attempt.

    Returns:
        The address it came from, or "already there".

    Raises:
        DataError: if no address serves it, with the reason for each; or if the existing file has another hash.
        ResourceError: if the disk is full or not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists():
                check_file(target, checksum)
                return "already there"
            return _try_mirrors(addresses, target, checksum, pause_s)
    except OSError as error:
        raise cannot_write(target, error) from error


def _try_mirrors(addresses: Sequence[str], target: Path, checksum: Checksum | None, pause_s: float) -> str:
    failures = []
    for address in addresses:
        try:
            _fetch_with_retries(address, target, checksum, pause_s)
            return address
        except MirrorError as error:
            log.warning("%s: %s", address, error)
            failures.append(f"  {address}: {error}")
    raise DataError(f"no address serves {target.name}:\n" + "\n".join(failures))


def _fetch_with_retries(address: str, target: Path, checksum: Checksum | None, pause_s: float) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_once(address, target, checksum)
            return
        except (MirrorError, requests.RequestException) as error:
            final = isinstance(error, MirrorError) and error.final
            if final or attempt == ATTEMPTS or isinstance(error, requests.TooManyRedirects | requests.URLRequired):
                raise MirrorError(f"{failure_reason(error)} (attempt {attempt})", final=True) from error
            pause = getattr(error, "wait_s", None) or pause_s * 2 ** (attempt - 1)
            log.info("%s: %s; trying again in %.0f s", address, failure_reason(error), pause)
            time.sleep(min(pause, LONGEST_PAUSE_S))


def _fetch_once(address: str, target: Path, checksum: Checksum | None) -> None:
    """Fetch the file, or the rest of it; move it into place if it is complete and correct."""
    partial = PartialFile(target)
    done, range_headers = partial.resume(address)
    with request_file(address, range_headers) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            partial.discard()
            raise MirrorError("the server cannot resume the transfer")
        check_response(response, address)
        start = _first_byte(response, done)
        partial.write_note(address, response)
        _receive(response, partial.path, start, target.name)
    try:
        check_start(first_bytes(partial.path))
        check_file(partial.path, checksum, target.name)
    except (DataError, MirrorError) as error:
        partial.discard()
        raise MirrorError(str(error), final=True) from error
    os.replace(partial.path, target)
    partial.discard()


def failure_reason(error: Exception) -> str:
    """Return why a request failed, in one line."""
    text = str(error)
    if isinstance(error, MirrorError):
        return text
    host = re.search(r"host='([^']+)'", text)
    name = host.group(1) if host else "the server"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {name} cannot be verified"
    if isinstance(error, requests.Timeout):
        return f"timed out: {name} did not answer within {max(TIMEOUT_S)} s"
    if "Failed to resolve" in text or "Name or service not known" in text:
        return f"the name {name} cannot be resolved (is there a network connection?)"
    if "Connection refused" in text:
        return f"Connection refused by {name}"
    return reason_of(error)


@contextmanager
def request_file(address: str, range_headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """Request a file, or the range of it that the headers ask for; the body is read by the caller.

    Raises:
        MirrorError: if the address is neither http nor https.
        requests.RequestException: if the server cannot be reached.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise MirrorError("only http and https addresses are supported; give a local file as `path`", final=True)
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **range_headers}
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        with session.get(address, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            yield response


class PartialFile:
    """The received part of a file, and a note of what is needed to resume its transfer."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.partial")
        self._note = self.path.with_suffix(".json")

    def resume(self, address: str) -> tuple[int, dict[str, str]]:
        """Return the number of bytes left by an earlier attempt, and the headers that request the rest.

        (0, {}) if there are none, or if the server could not verify that its file is unchanged.
        """
        try:
            note = json.loads(self._note.read_text())
            if note["address"] == address and note["validator"]:
                done = self.path.stat().st_size
                return done, {"Range": f"bytes={done}-", "If-Range": note["validator"]} if done else {}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.discard()
        return 0, {}

    def write_note(self, address: str, response: requests.Response) -> None:
        """Store the address and validator of this transfer; weak validators do not qualify."""
        tag = response.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
        self._note.write_text(json.dumps({"address": address, "validator": validator}))

    def discard(self) -> None:
        """Remove the part and the note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def check_response(response: requests.Response, address: str) -> None:
    """Raise `MirrorError` if a response is not that of a file: an error, a web page, or a redirect to plain http."""
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        wait = response.headers.get("Retry-After", "")
        raise MirrorError(
            f"the server responds {status} {response.reason}", wait_s=float(wait) if wait.isdigit() else None
        )
    if status not in (200, 206):
        raise MirrorError(f"the server responds {status} {response.reason}", final=True)
    if address.startswith("https:") and not response.url.startswith("https:"):
        raise MirrorError(f"it redirects to {response.url}, which is not encrypted", final=True)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise MirrorError(WEB_PAGE, final=True)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise MirrorError(f"it sends the file with encoding {response.headers['Content-Encoding']}", final=True)


def _first_byte(response: requests.Response, done: int) -> int:
    """Return the offset at which the response begins; a server may ignore the requested range."""
    if response.status_code == 200:
        return 0
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {done}-"):
        raise MirrorError(f"bytes from {done} were requested, the server sends {content_range!r}", final=True)
    return done


def _receive(response: requests.Response, partial: Path, start: int, name: str) -> None:
    """Append the body after the first `start` bytes; received data is kept if the connection breaks."""
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    free = shutil.disk_usage(partial.parent).free - SPARE_BYTES
    require_space(name, (total or 0) - start, free)
    received = start
    with (
        open(partial, "r+b" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar,
    ):
        file.seek(start)
        file.truncate()
        for chunk in response.iter_content(CHUNK_BYTES):
            received += len(chunk)
            require_space(name, received - start, free)
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and received != total:
        raise MirrorError(f"the connection broke after {received:,} of {total:,} bytes")


def check_start(start: bytes) -> None:
    """Raise `MirrorError` if the first bytes of a file are missing or those of a web page."""
    if not start:
        raise MirrorError("it sends an empty file", final=True)
    if looks_like_page(start):
        raise MirrorError(WEB_PAGE, final=True)


def check_file(path: Path, checksum: Checksum | None, name: str | None = None) -> None:
    """Compare a file with its checksum.

    Raises:
        DataError: if it differs.
    """
    if checksum is None:
        return
    found = file_hash(path, checksum.algorithm)
    if found != checksum.value:
        raise DataError(
            f"{name or path} has {checksum.algorithm} {found}, expected {checksum.value}{checksum.origin}: damaged or "
            "another file. Delete it to fetch it again; if it is the right one, set its sha256 (or none) in section "
            "prepare"
        )


def file_hash(path: Path, algorithm: str) -> str:
    """Return the hexadecimal hash of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: _new_hash(algorithm)).hexdigest()


def _new_hash(algorithm: str) -> Any:
    return hashlib.new(algorithm, usedforsecurity=False)
