"""The wheel alone, in an environment that holds nothing but its declared dependencies, is a library one can import."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
INSTALLED = Path(sysconfig.get_paths()["purelib"])
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "src")


def base_requirements(distribution: str) -> list[str]:
    """Return the names of what a distribution requires on this machine without any extra."""
    declared = map(Requirement, importlib.metadata.requires(distribution) or ())
    return [wanted.name for wanted in declared if not wanted.marker or wanted.marker.evaluate({"extra": ""})]


def closure(names: list[str]) -> set[str]:
    """Return the distributions that these ones need, directly or not."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += base_requirements(name)
    return found


def link_distribution(name: str, folder: Path) -> None:
    """Make an installed distribution visible in another environment."""
    for entry in {
        file.parts[0] for file in importlib.metadata.files(name) or () if file.parts[0] not in ("..", "__pycache__")
    }:
        if not (folder / entry).exists():
            (folder / entry).symlink_to(INSTALLED / entry)


def reuse_compiled(package: Path) -> None:
    """Spare an unpacked package 20 s of compiling: its sources get their timestamps here, and their machine code."""
    for here in (ROOT / "src" / package.name).rglob("*"):
        there = package / here.relative_to(ROOT / "src" / package.name)
        if here.suffix in (".nbi", ".nbc"):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here, there)
        elif there.is_file():
            shutil.copystat(here, there)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the project."""
    folder = tmp_path_factory.mktemp("build")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for stale in (folder / "src").glob("*.egg-info"):
        shutil.rmtree(stale)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that runs a program in an environment of the wheel and its dependencies; gives its output."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(packages)
    reuse_compiled(packages / "fewshot")
    metadata = importlib.metadata.Distribution.at(next(packages.glob("*.dist-info")))
    declared = [wanted for wanted in map(Requirement, metadata.requires or ()) if not wanted.marker]
    for name in closure([wanted.name for wanted in declared]):
        link_distribution(name, packages)

    def run(program: str) -> str:
        done = subprocess.run(
            [folder / "bin" / "python", "-I", "-c", program], cwd=folder, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_the_environment_lacks_what_is_not_declared(python):
    program = "import importlib.util as u; print([n for n in ('snakemake', 'dvc', 'pandas', 'qpth') if u.find_spec(n)])"
    assert python(program) == "[]"


@pytest.mark.parametrize("package", ["heads", "solvers", "learners", "episodes", "backbones", "evaluation"])
def test_packages_import(package, python):
    assert python(f"import fewshot.{package} as found; print(found.__name__)") == f"fewshot.{package}"


def test_types_are_declared(python):
    program = "import fewshot, pathlib; print((pathlib.Path(fewshot.__file__).parent / 'py.typed').exists())"
    assert python(program) == "True"


EXAMPLES = """
import doctest, importlib, pathlib, fewshot
folder = pathlib.Path(fewshot.__file__).parent
failed = attempted = 0
for package in ("heads", "solvers", "learners", "backbones", "evaluation"):
    for file in sorted((folder / package).glob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            module = importlib.import_module(f"fewshot.{package}.{file.stem}".removesuffix(".__init__"))
            found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
            failed, attempted = failed + found.failed, attempted + found.attempted
print(failed, attempted > 50)
"""


def test_examples_of_the_docstrings_run(python):
    assert python(EXAMPLES) == "0 True"
