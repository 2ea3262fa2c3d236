"""The command line: help, exit status, and errors as one message without a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot import cli
from fewshot.experiments.params import schema_text
from fewshot.training.stop_signals import Interrupted

SHIPPED = Path(__file__).parents[2] / "params.yaml"
COMMANDS = tuple(cli._parser()._subparsers._group_actions[0].choices)
WRONG_NAMES = {
    "download": "glyph",
    "prepare": "glyph",
    "train": "glyphs-conv4-ridge-quik-s0",
    "evaluate": "glyphs-conv4-ridge-quik-s0",
    "export": "glyphs-conv4-ridge-quik-s0",
}


@pytest.fixture
def fewshot(project, capsys):
    """Return a function that runs a command in an empty project and returns (status, output, errors)."""

    def run(*arguments):
        status = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = exit_.code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return run


@pytest.fixture
def with_params(project):
    """Put the shipped parameters into the project."""
    (project / "params.yaml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    return project


def test_stages_are_commands():
    assert {"prepare", "train", "evaluate", "report", "list"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, fewshot):
    status, out, _ = fewshot(command, "--help")

    assert status == 0
    assert out.startswith(f"usage: fewshot {command}")
    assert len(out.splitlines()) < 40


def test_help_lists_every_command(fewshot):
    status, out, _ = fewshot("--help")

    assert status == 0
    assert [command for command in COMMANDS if f"    {command} " not in out] == []


@pytest.mark.parametrize(
    "arguments", [(), ("trian",), ("train",), ("tidy",), ("tidy", "everything"), ("list", "--what")]
)
def test_wrong_usage(arguments, fewshot):
    status, _, err = fewshot(*arguments)

    assert status == 2
    assert err.startswith("usage: fewshot")


@pytest.mark.parametrize("command", ["list", "report"])
def test_missing_parameter_file(command, fewshot):
    status, out, err = fewshot(command)

    assert (status, out) == (2, "")
    assert err == "error: params.yaml: cannot be read: No such file or directory; run from the project folder\n"


def test_mistake_in_the_parameter_file(fewshot, project):
    (project / "params.yaml").write_text("suite: [1\n", encoding="utf-8")

    status, out, err = fewshot("list")

    assert (status, out) == (2, "")
    assert err.startswith("error: params.yaml: not valid YAML: line 2")


@pytest.mark.parametrize("command", WRONG_NAMES)
def test_unknown_name(command, fewshot, with_params):
    status, _, err = fewshot(command, WRONG_NAMES[command])

    assert status == 2
    assert "suite 'quickstart' has no" in err
    assert "Did you mean 'glyphs" in err


def test_unknown_suite(fewshot, with_params):
    status, _, err = fewshot("list", "--suite", "quikstart")

    assert status == 2
    assert "unknown suite 'quikstart'" in err
    assert "Did you mean 'quickstart'?" in err


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_outdated_key(command, fewshot, with_params):
    status, _, err = fewshot(command, "glyphs-conv4-ridge-quick-s0", "--key", "0123456789ab")

    assert status == 2
    assert "not 0123456789ab: params.yaml or the code has changed" in err


def test_unknown_target(fewshot, with_params):
    status, _, err = fewshot("evaluate", "glyphs-conv4-ridge-quick-s0", "--target", "cub")

    assert status == 2
    assert "on 'cub'" in err


def test_list_shows_experiments_and_writes_nothing(fewshot, with_params):
    before = sorted(with_params.rglob("*"))

    status, out, _ = fewshot("list")

    assert status == 0
    assert "glyphs-conv4-ridge-quick-s0" in out
    assert "snakemake" in out
    assert sorted(with_params.rglob("*")) == before


def test_list_as_json(fewshot, with_params):
    status, out, _ = fewshot("list", "--json")

    assert status == 0
    assert "glyphs-conv4-ridge-quick-s0" in json.dumps(json.loads(out))


def test_list_with_another_parameter_file(fewshot, project):
    (project / "other.yaml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")

    assert fewshot("list", "--params", "other.yaml")[0] == 0


def test_tidy_without_results(fewshot, with_params):
    assert [fewshot("tidy", stage) for stage in ("prepare", "train", "evaluate", "report")] == [(0, "", "")] * 4


def test_schema_is_printed_written_and_checked(fewshot, project):
    cli.SCHEMA_FILE.parent.mkdir(parents=True)

    assert fewshot("schema")[:2] == (0, schema_text())
    assert fewshot("schema", "--check")[0] == 2
    assert fewshot("schema", "--write")[0] == 0
    assert fewshot("schema", "--check")[0] == 0


def test_shipped_schema_is_up_to_date():
    shipped = SHIPPED.parent / cli.SCHEMA_FILE

    assert shipped.read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize(
    ("interrupt", "words"),
    [
        (KeyboardInterrupt(), "interrupted; rerun the same command to continue"),
        (Interrupted("SIGTERM: stopped after step 3"), "stopped after step 3"),
    ],
)
def test_interrupt(interrupt, words, fewshot, with_params, monkeypatch):
    def stop(*arguments, **settings):
        raise interrupt

    monkeypatch.setattr(cli, "load_plan", stop)

    status, _, err = fewshot("list")

    assert status == 130
    assert words in err


def test_list_imports_no_array_library(with_params):
    code = (
        "import sys; from fewshot.cli import main; main(['list']);"
        "print(sorted({'torch', 'numpy', 'pandas', 'numba', 'matplotlib'} & sys.modules.keys()), file=sys.stderr)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stderr.strip() == "[]"


def test_closed_output_pipe(with_params):
    read, write = os.pipe()
    os.close(read)

    run = subprocess.run([sys.executable, "-m", "fewshot", "list"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)

    assert run.returncode != 0
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("package", ["yaml", "filelock"])
def test_a_missing_package_is_one_line_that_says_how_to_install_it(with_params, package):
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['fewshot', 'list']; "
    code += "from fewshot.__main__ import main; main()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=with_params)

    assert done.returncode == 2
    expected = (
        f"error: the package {package!r} is not installed; run: pip install 'fewshot-workflow[workflow,glyphs]'\n"
    )
    assert done.stderr == expected
