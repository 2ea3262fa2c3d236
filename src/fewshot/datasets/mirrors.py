"""Whether the published files can still be downloaded: each address is asked for the first bytes of its file."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from fewshot.datasets import DATASETS
from fewshot.datasets.archives import content_kind
from fewshot.datasets.download import releases
from fewshot.datasets.releases import RELEASES, RemoteFile, manual_steps
from fewshot.datasets.settings import SourceSettings
from fewshot.datasets.transfer import MirrorError, check_response, check_start, failure_reason, request_file

FIRST_BYTES = 512
ATTEMPTS = 2
REQUESTS_AT_ONCE = 8
SIZE_TOLERANCE = 0.5  # where only an approximate size is known
PLAIN_TAG = re.compile(r'"?(md5:|sha256:)?([0-9a-f]{32}|[0-9a-f]{64})"?')
GOOGLE_MD5 = re.compile(r"md5=([\w+/=]+)")
ALGORITHMS = {32: "md5", 64: "sha256"}


@dataclass(frozen=True)
class MirrorRow:
    """What one address answered.

    Attributes:
        dataset: data set.
        file: name of the file.
        address: where it was asked for.
        release: number of the release among those of the data set; all files of one release are needed.
        problem: why the file cannot be had there; "" if it can.
        size: bytes, as the server states them; None if it does not.
        kind: kind of file, judged by the first bytes.
        checksum: "fits", "not stated" by the server, or "not known" to this program.
    """

    dataset: str
    file: str
    address: str
    release: int
    problem: str
    size: int | None = None
    kind: str = ""
    checksum: str = ""


def check_mirrors(settings: Mapping[str, SourceSettings]) -> list[MirrorRow]:
    """Ask every address of the data sets for the first bytes of its file; nothing is downloaded.

    Args:
        settings: by data set; the user's mirrors in them are asked too.
    """
    asked = [
        (name, number, file, address)
        for name in settings
        for number, release in enumerate(releases(name, settings[name]))
        for file in release.files
        for address in file.addresses
    ]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(lambda entry: _ask(*entry), asked))


def published_settings(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, SourceSettings]:
    """Return the settings of every published data set, given the entries of section `prepare` of `params.yaml`.

    Raises:
        ParamsError: if a setting is unknown or out of range.
    """
    settings = {}
    for name in RELEASES:
        entry = {key: value for key, value in entries.get(name, {}).items() if key != "base"}
        settings[name] = DATASETS[name].typed(entry, where=f"prepare.{name}")
    return settings


def without_mirror(rows: Iterable[MirrorRow]) -> list[str]:
    """Return the data sets of which no release can be downloaded completely."""
    complete: dict[str, dict[int, dict[str, bool]]] = {}
    for row in rows:
        files = complete.setdefault(row.dataset, {}).setdefault(row.release, {})
        files[row.file] = files.get(row.file, False) or not row.problem
    return [name for name, found in complete.items() if not any(all(files.values()) for files in found.values())]


def mirror_table(rows: Sequence[MirrorRow]) -> str:
    """Return the answers as text, one address per line, by data set."""
    lines = []
    for name in dict.fromkeys(row.dataset for row in rows):
        lines.append(f"{name}:")
        lines += [f"  {_answer(row)}  {row.address}" for row in rows if row.dataset == name]
    return "\n".join(lines)


def _answer(row: MirrorRow) -> str:
    if row.problem:
        return f"no   {row.file}: {row.problem}"
    size = "size not stated" if row.size is None else f"{row.size:,} bytes"
    return f"yes  {row.file}: {size}, {row.kind}, checksum {row.checksum}"


def no_mirror_message(names: Sequence[str]) -> str:
    """Return the error for data sets that cannot be downloaded, with the steps to take by hand."""
    steps = "\n".join(f"{name}: {manual_steps(name)}" for name in names)
    return f"no working mirror: {', '.join(names)}. Add an address to `mirrors` in section prepare, or a path.\n{steps}"


def _ask(dataset: str, release: int, file: RemoteFile, address: str) -> MirrorRow:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _ask_once(dataset, release, file, address)
        except (MirrorError, requests.RequestException) as error:
            if getattr(error, "final", False) or attempt == ATTEMPTS:
                return MirrorRow(dataset, file.name, address, release, failure_reason(error))
    raise AssertionError("unreachable")


def _ask_once(dataset: str, release: int, file: RemoteFile, address: str) -> MirrorRow:
    with request_file(address, {"Range": f"bytes=0-{FIRST_BYTES - 1}"}) as response:
        check_response(response, address)
        start = next(response.iter_content(FIRST_BYTES), b"")
        check_start(start)
        size = _stated_size(response)
        _check_size(file, size)
        checksum = _compare_checksum(file, response)
    return MirrorRow(dataset, file.name, address, release, "", size, content_kind(start), checksum)


def _stated_size(response: requests.Response) -> int | None:
    """Return the size of the whole file; a server that ignores the range states it as the length of the response."""
    text = response.headers.get("Content-Length", "")
    if response.status_code == requests.codes.partial_content:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _check_size(file: RemoteFile, size: int | None) -> None:
    if size is None or file.size is None:
        return
    tolerance = 0 if file.size_is_exact else SIZE_TOLERANCE * file.size
    if abs(size - file.size) > tolerance:
        about = "" if file.size_is_exact else "about "
        raise MirrorError(f"another file: {size:,} bytes, expected {about}{file.size:,}", final=True)


def _compare_checksum(file: RemoteFile, response: requests.Response) -> str:
    """Compare the checksums that the server and its redirects state in their headers with the known ones.

    Raises:
        MirrorError: if one differs.
    """
    known = {"md5": file.md5, "sha256": file.sha256}
    if not any(known.values()):
        return "not known"
    answer = "not stated"
    for algorithm, value, certain in _stated_checksums([*response.history, response]):
        if known[algorithm] == value:
            answer = "fits"
        elif certain and known[algorithm]:
            raise MirrorError(f"another file: its {algorithm} is {value}, expected {known[algorithm]}", final=True)
    return answer


def _stated_checksums(responses: Iterable[requests.Response]) -> Iterator[tuple[str, str, bool]]:
    """Yield algorithm, value, and whether it certainly is a checksum: an ETag may be any text of the same length."""
    for response in responses:
        for header in ("ETag", "X-Linked-ETag"):
            match = PLAIN_TAG.fullmatch(response.headers.get(header, ""))
            if match:
                certain = header == "X-Linked-ETag" or bool(match.group(1))
                yield ALGORITHMS[len(match.group(2))], match.group(2), certain
        google = GOOGLE_MD5.search(response.headers.get("X-Goog-Hash", ""))
        for text in (response.headers.get("Content-MD5", ""), google.group(1) if google else ""):
            if len(text) == 24:
                yield "md5", base64.b64decode(text).hex(), True
