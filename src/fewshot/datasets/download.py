"""The files of a data set: given by the user, already downloaded, or from the first release that works."""

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fewshot.datasets.disk import require_space
from fewshot.datasets.releases import RELEASES, Release, RemoteFile, manual_steps
from fewshot.datasets.settings import SourceSettings
from fewshot.datasets.transfer import Checksum, check_file, fetch_file, file_hash
from fewshot.errors import DataError, ParamsError
from fewshot.files import write_atomic
from fewshot.settings import Settings

log = logging.getLogger(__name__)


def download(name: str, settings: Settings, raw_dir: Path) -> list[Path]:
    """Return the files of a data set; download them if they are neither given nor present.

    Args:
        name: an entry of `DATASETS`.
        settings: of the type that the entry names.
        raw_dir: folder for downloaded files.

    Returns:
        The files, in the order of the release, or the path given by the user; empty if none are needed.

    Raises:
        DataError: if a given path is missing or no release can be downloaded; describes the steps to do by hand.
        ResourceError: if there is too little disk space.
    """
    path = getattr(settings, "path", None)
    if path is not None:
        return [_checked_path(name, settings, Path(path))]
    if not isinstance(settings, SourceSettings):
        return []
    failures = []
    for release in sorted(releases(name, settings), key=lambda release: not _is_downloaded(release, raw_dir)):
        try:
            return _fetch_release(name, release, settings, raw_dir)
        except DataError as error:
            failures.append(str(error))
    raise DataError(f"{name} cannot be downloaded.\n" + "\n".join(failures) + f"\n{manual_steps(name)}")


def describe_files(name: str, settings: Settings, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the names and sizes of the files and how they were checked, for a store's record."""
    return [
        {
            "file": path.name,
            "bytes": path.stat().st_size if path.is_file() else None,
            "checked": ", ".join(_checks(name, settings, path)) or "content only (classes and counts)",
        }
        for path in files
    ]


def _checks(name: str, settings: Settings, path: Path) -> Iterator[str]:
    for file in _files_of(path):
        checksum = _checksum(name, settings, file.name) or _first_checksum(name, settings, file)
        if checksum is not None:
            yield f"{file.name}: {checksum.algorithm} {checksum.value}{checksum.origin}"


def _files_of(path: Path) -> list[Path]:
    """Return a file itself, or the files at the top of a folder."""
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())


def _checked_path(name: str, settings: Settings, path: Path) -> Path:
    if not path.exists():
        raise DataError(
            f"prepare.{name}.path is {str(path)!r}, which does not exist (relative to {Path.cwd()}); "
            "correct it in params.yaml"
        )
    for file in _files_of(path):
        check_file(file, _checksum(name, settings, file.name))
    return path


def _checksum(name: str, settings: Settings, file_name: str) -> Checksum | None:
    """Return the checksum a file of this name must have: the user's, else the published one, else None."""
    if not isinstance(settings, SourceSettings):
        return None
    choice = settings.sha256 if isinstance(settings.sha256, str) else settings.sha256.get(file_name, "published")
    if choice == "none":
        return None
    if choice != "published":
        return Checksum("sha256", choice)
    for release in RELEASES.get(name, ()):
        for file in release.files:
            if file.name == file_name and (file.sha256 or file.md5):
                return Checksum("sha256", file.sha256) if file.sha256 else Checksum("md5", str(file.md5))
    return None


def _first_checksum(name: str, settings: Settings, path: Path) -> Checksum | None:
    """Return the hash recorded at the first download of a file without a published checksum.

    None if there is no record, or the user wants no check.
    """
    choice = getattr(settings, "sha256", "published")
    record = checksum_record(path)
    if choice == "none" or (isinstance(choice, dict) and choice.get(path.name) == "none") or not record.is_file():
        return None
    value = record.read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise DataError(f"{record}: damaged; delete it, and {path.name} if you do not trust it, then rerun")
    return Checksum("sha256", value, f" (as at the first download, recorded in {record}; delete that to accept it)")


def checksum_record(path: Path) -> Path:
    """Return the record next to a downloaded file, in the format of `sha256sum`."""
    return path.with_name(f".{path.name}.sha256")


def record_checksum(path: Path) -> None:
    """Record the hash of a downloaded file, unless it is recorded, so that a later download shows any change."""
    record = checksum_record(path)
    if not record.exists():
        write_atomic(record, f"{file_hash(path, 'sha256')}  {path.name}\n".encode())


def releases(name: str, settings: SourceSettings) -> Iterator[Release]:
    """Yield the releases of a data set in the order in which they are tried, the user's mirrors first."""
    folders = tuple(address for address in settings.mirrors if address.endswith("/"))
    for address in settings.mirrors:
        if address not in folders:
            yield Release(name, (RemoteFile(Path(urlsplit(address).path).name or name, (address,)),))
    for release in RELEASES.get(name, ()):
        files = tuple(
            replace(file, addresses=(*(folder + file.name for folder in folders), *file.addresses))
            for file in release.files
        )
        yield Release(release.folder, files, release.terms)


def _is_downloaded(release: Release, raw_dir: Path) -> bool:
    return all((raw_dir / release.folder / file.name).is_file() for file in release.files)


def _fetch_release(name: str, release: Release, settings: SourceSettings, raw_dir: Path) -> list[Path]:
    """Fetch the missing files of a release, and check all of them."""
    if isinstance(settings.sha256, str) and len(settings.sha256) == 64 and len(release.files) > 1:
        raise ParamsError(
            f"prepare.{name}.sha256 is one checksum for {len(release.files)} files; give a mapping from the names "
            f"{', '.join(file.name for file in release.files)} to checksums"
        )
    folder = raw_dir / release.folder
    missing = [file for file in release.files if not (folder / file.name).is_file()]
    if missing and release.terms and not getattr(settings, "accept_terms", True):
        raise DataError(f"{release.terms}. If you accept them, set prepare.{name}.accept_terms: true in params.yaml.")
    _check_space(name, folder, missing)
    for file in release.files:
        path, checksum = folder / file.name, _checksum(name, settings, file.name)
        came_from = fetch_file(file.addresses, path, checksum or _first_checksum(name, settings, path))
        log.info("%s: %s", file.name, came_from)
        if checksum is None:
            record_checksum(path)
    return [folder / file.name for file in release.files]


def _check_space(name: str, folder: Path, missing: Sequence[RemoteFile]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(file.size or 0 for file in missing), shutil.disk_usage(folder).free
    if missing:
        log.info("%s: about %.2f GB to download, %.1f GB of disk space are free", name, needed / 1e9, free / 1e9)
    require_space(f"{name} in {folder}", needed, free)
