"""The script of a bundle: parts that arrive one by one, archives that are refused, work that ends at the deadline."""

import ast
import io
import json
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from fewshot.sharing import bundle_script
from fewshot.sharing.bundle_script import (
    Refused,
    Work,
    extract_parts,
    install_missing,
    job_files,
    pack_results,
    receive,
    write_parts,
)


def written(folder, content):
    """Write files in a folder; return them with their names in an archive."""
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [(folder / name, (folder / name).relative_to(folder)) for name in content]


def read(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


CONTENT = {"a/one.txt": "1" * 3000, "b.txt": "2" * 5000, "a/c/empty.txt": ""}


@pytest.fixture
def sent(tmp_path):
    """Return a folder with the parts of an archive, and its record."""
    (tmp_path / "sent").mkdir()
    record = write_parts(written(tmp_path / "source", CONTENT), tmp_path / "sent", "bundle", 4000)
    return tmp_path / "sent", {**record, "stores": [], "python": "3.0"}


def test_parts_are_as_small_as_asked_and_hold_everything(sent, tmp_path):
    folder, record = sent
    sizes = [(folder / part["name"]).stat().st_size for part in record["parts"]]
    assert sizes == [part["bytes"] for part in record["parts"]]
    assert set(sizes[:-1]) == {4000}
    extract_parts(folder, record["parts"], tmp_path / "into")
    assert read(tmp_path / "into") == CONTENT


def test_parts_may_arrive_one_by_one(sent, tmp_path):
    folder, record = sent
    names = [part["name"] for part in record["parts"]]
    for number, name in enumerate(names):
        arrived = tmp_path / f"call-{number}"
        arrived.mkdir()
        (folder / name).rename(arrived / name)
        assert receive(record, arrived, tmp_path / "work") == names[number + 1 :]
    assert (tmp_path / "work" / "b.txt").read_text() == CONTENT["b.txt"]
    assert receive(record, tmp_path, tmp_path / "work") == []  # unpacked already


def test_a_damaged_part_is_refused(sent, tmp_path):
    folder, record = sent
    part = folder / record["parts"][1]["name"]
    part.write_bytes(part.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(Refused, match=r"bundle-2.part: damaged .* send it again"):
        receive(record, folder, tmp_path / "work")


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "link"])
def test_names_outside_the_folder_and_links_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / "bundle-1.part", "w") as archive:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    with pytest.raises(Refused, match="no file below the folder"):
        extract_parts(tmp_path, [{"name": "bundle-1.part"}], tmp_path / "into")
    assert not (tmp_path / "outside.txt").exists()


@pytest.fixture
def wheels(tmp_path):
    """Return a folder with wheels of a package that is installed and of one that is not."""
    for name in ("numpy", "no_such_package"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "")
    return tmp_path


OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_only_missing_packages_are_unpacked(wheels):
    install_missing(wheels, wheels / "site", OWN)
    assert [folder.name for folder in (wheels / "site").iterdir()] == ["no_such_package"]


def test_packages_for_another_python_are_refused(wheels):
    with pytest.raises(Refused, match=rf"Python {OWN} lacks no-such-package, .* --python-version {OWN}"):
        install_missing(wheels, wheels / "site", "3.0")


@pytest.mark.parametrize("option", ["--minutes", "--jobs", "--part-mb"])
def test_numbers_must_be_positive(option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", option, "0"])
    with pytest.raises(SystemExit):
        bundle_script.main()
    assert f"argument {option}: 0 is not allowed: give a number above 0" in capsys.readouterr().err


def test_only_without_a_training_names_those_there_are(tmp_path, monkeypatch):
    written(tmp_path, {"run.py": "", "bundle.json": json.dumps({"suite": "tiny", "chains": [CHAIN]})})
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "two"])
    monkeypatch.setattr(bundle_script, "__file__", str(tmp_path / "run.py"))
    monkeypatch.setattr(bundle_script, "receive", lambda *_: [])
    with pytest.raises(Refused, match=r"--only two: no training has this in its name; the bundle has one$"):
        bundle_script.main()


def test_an_unfinished_training_sends_its_newest_checkpoint(tmp_path):
    written(tmp_path, {"checkpoints/checkpoint.pt": "", "checkpoints/checkpoint-previous.pt": "", "names.txt": "a\n"})
    assert [file.name for file in job_files(tmp_path)] == ["checkpoint.pt", "names.txt"]
    written(tmp_path, {"result/weights": ""})
    assert [file.name for file in job_files(tmp_path)] == ["weights", "names.txt"]


CHAIN = {"train": [["one", "0a"]], "evaluate": [["one", "0b", "glyphs"]]}
SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved the state", flush=True), sys.exit(130)))
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture
def project(tmp_path):
    """Return a project whose package only waits to be stopped."""
    written(tmp_path, {"src/fewshot/__main__.py": SLEEPER, "src/fewshot/__init__.py": ""})
    return tmp_path


def test_the_deadline_stops_a_training_in_good_order(project, capsys):
    work = Work(project, "tiny", time.monotonic() + 2)
    work.run_chain(CHAIN)
    assert "train one: " in (said := capsys.readouterr().out)
    assert "exit 130: saved the state" in said
    assert "evaluate" not in said
    assert not work.failed


def test_a_failed_training_is_reported_and_not_evaluated(project, capsys):
    (project / "src/fewshot/__main__.py").write_text("raise SystemExit('error: no such data')")
    work = Work(project, "tiny", time.monotonic() + 60)
    work.run_chain(CHAIN)
    assert "exit 1: error: no such data" in (said := capsys.readouterr().out)
    assert "evaluate" not in said
    assert work.failed


def test_nothing_starts_after_the_deadline(project, capsys):
    work = Work(project, "tiny", time.monotonic())
    work.stopped.wait(5)
    work.run_chain(CHAIN)
    assert capsys.readouterr().out == ""


def test_the_script_imports_only_the_standard_library():
    """It starts on a machine that has nothing else yet."""
    tree = ast.parse(Path(bundle_script.__file__).read_bytes())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in top} <= sys.stdlib_module_names


def test_results_and_checkpoints_are_packed_apart(tmp_path, capsys):
    result, checkpoint = (
        {"train/0a/result/weights": "w", "train/0a/names.txt": "one\n"},
        {"train/0c/checkpoints/c.pt": "c"},
    )
    written(tmp_path / "cache", {**result, **checkpoint})
    chains = [CHAIN, {"train": [["two", "0c"]], "evaluate": [["two", "0d", "glyphs"]]}]
    pack_results(tmp_path, "tiny", chains, tmp_path / "out", 100_000)
    assert "1 of 4 jobs finished; 1 part of results; 1 part of checkpoints" in capsys.readouterr().out
    archives = json.loads((tmp_path / "out" / "results.json").read_text())["archives"]
    for kind, content in (("results", result), ("checkpoints", checkpoint)):
        extract_parts(tmp_path / "out", archives[kind]["parts"], tmp_path / kind)
        assert read(tmp_path / kind) == content
