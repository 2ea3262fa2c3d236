"""One listing of a folder serves its digest and its readers: links are followed, hidden files left out."""

import os
from pathlib import Path

import pytest

from fewshot.datasets.file_sets import FolderFiles
from fewshot.digests import path_digest
from fewshot.errors import DataError
from fewshot.folders import list_folder


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Return a folder whose two class folders are links to folders elsewhere."""
    for name in "ab":
        write(tmp_path / "elsewhere" / name / "1.png")
    (tmp_path / "mine").mkdir()
    for name in "ab":
        (tmp_path / "mine" / name).symlink_to(tmp_path / "elsewhere" / name)
    return tmp_path / "mine"


def test_changed_file_behind_a_linked_folder_changes_the_digest(linked: Path) -> None:
    before = path_digest(linked)
    write(linked / "a" / "1.png", b"another picture")
    assert path_digest(linked) != before


def test_new_file_behind_a_linked_folder_changes_the_digest(linked: Path) -> None:
    before = path_digest(linked)
    write(linked / "b" / "2.png")
    assert path_digest(linked) != before


def test_linked_and_copied_folders_have_the_same_digest(linked: Path) -> None:
    assert path_digest(linked) == path_digest(linked.with_name("elsewhere"))


def test_files_that_are_read_are_those_of_the_digest(linked: Path) -> None:
    assert FolderFiles(linked).names() == list(list_folder(linked).files) == ["a/1.png", "b/1.png"]


@pytest.mark.parametrize("name", [".DS_Store", "a/.DS_Store", ".git/config", "__MACOSX/a/1.png", "a/Thumbs.db"])
def test_hidden_file_changes_neither_digest_nor_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a" / "1.png")
    before = path_digest(tmp_path)

    write(tmp_path / name)

    assert path_digest(tmp_path) == before
    assert FolderFiles(tmp_path).names() == ["a/1.png"]
    assert sum(list_folder(tmp_path).skipped.values()) == 1


def test_what_is_not_listed_is_counted_by_kind(tmp_path: Path) -> None:
    write(tmp_path / "a" / ".hidden")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "itself.png").symlink_to(tmp_path / "a" / "itself.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / ".git").mkdir()

    listing = list_folder(tmp_path)

    assert listing.skipped == {"hidden files": 1, "broken links": 2, "special files": 1, "hidden folders": 1}
    assert listing.files == {}
    assert listing.folders == ("a",)


@pytest.mark.parametrize("read", [path_digest, FolderFiles])
def test_link_to_a_folder_above_is_refused(tmp_path: Path, read) -> None:
    write(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"a/up' is the same folder as .*remove one of them"):
        read(tmp_path)


def test_links_that_multiply_a_folder_are_refused_at_the_second(tmp_path: Path) -> None:
    for level in range(30):  # followed blindly, 2 ** 30 paths
        (tmp_path / str(level)).mkdir()
        for link in "ab":
            (tmp_path / str(level) / link).symlink_to(tmp_path / str(level + 1))
    with pytest.raises(DataError, match="is the same folder as"):
        list_folder(tmp_path / "0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("read", [path_digest, FolderFiles])
def test_unreadable_subfolder_is_refused(tmp_path: Path, read) -> None:
    write(tmp_path / "a" / "1.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            read(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_unreadable_subfolder_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        FolderFiles(tmp_path)
