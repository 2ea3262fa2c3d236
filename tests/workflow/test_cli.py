"""The command line: help, exit status, and errors as one message without a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot import cli
from fewshot.cli.command_line import make_parser
from fewshot.cli.project import SCHEMA_FILE
from fewshot.errors import ParamsError
from fewshot.experiments.params import schema_text
from fewshot.training.stop_signals import Interrupted
from fewshot.workflow.listing import check_experiment_names
from fewshot.workflow.plan import load_plan

SHIPPED = Path(__file__).parents[2] / "params.yaml"
COMMANDS = tuple(make_parser()._subparsers._group_actions[0].choices)
RIDGE = "glyphs-conv4-ridge-quick-s0"
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
    shutil.copytree(SHIPPED.with_name("experiments"), project / "experiments")
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
    problem = "error: params.yaml: cannot be read: No such file or directory"
    assert err == f"{problem}; run from the project folder or give --project\n"


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


@pytest.mark.parametrize("words", [("cpu_prototype",), ("--json", "cpu_prototype"), ("--suite", "cpu_prototype")])
def test_list_takes_the_suite_with_or_without_an_option(words, fewshot, with_params):
    status, out, _ = fewshot("list", *words)

    assert status == 0
    assert "cifar_fs-conv4_64-prototype_adam-cpu-s0" in out


def test_list_of_a_suite_that_never_ran(fewshot, with_params):
    _, out, _ = fewshot("list")

    assert "tables:   results/tables/quickstart (missing)" in out


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
    SCHEMA_FILE.parent.mkdir(parents=True)

    assert fewshot("schema")[:2] == (0, schema_text())
    assert fewshot("schema", "--check")[0] == 2
    assert fewshot("schema", "--write")[0] == 0
    assert fewshot("schema", "--check")[0] == 0


def test_shipped_schema_is_up_to_date():
    shipped = SHIPPED.parent / SCHEMA_FILE

    assert shipped.read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("arguments", [("evidence",), ("evidence", "--check"), ("schema", "--write")])
def test_commands_for_a_clone_say_so_elsewhere(arguments, fewshot, project):
    status, out, err = fewshot(*arguments)

    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "run from a clone of the project" in err
    assert list(project.iterdir()) == []


@pytest.mark.parametrize("name", ["params.yaml", "cache", "results"])
@pytest.mark.parametrize("command", [("tidy", "train"), ("prune",), ("list",), ("explain", RIDGE), ("report",)])
def test_file_where_a_folder_is_expected_and_the_reverse(name, command, fewshot, with_params):
    place = with_params / name
    if place.exists():
        place.unlink()
        place.mkdir()
    else:
        place.write_text("")

    status, _, err = fewshot(*command)

    assert status in (0, 2)
    assert len(err.splitlines()) < 40


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--params", ""),
        ("list", "--params", "x" * 5000),
        ("list", "--suite", ""),
        ("list", "--suite", "\x1b[31m"),
        ("train", "\x1b[31m"),
        ("train", "x" * 5000),
        ("evaluate", RIDGE, "--target", "\x1b[31m\u202e"),
        ("evaluate", RIDGE, "--key", "\x1b[31m"),
        ("explain", "\n\n"),
        ("export", RIDGE),
        ("export", RIDGE, "--out", "x" * 5000),
        ("tidy", "train", "--suite", "no"),
        ("check", "--suite", "no"),
        ("report", "--results", "params.yaml"),
        ("report", "--results", "x" * 5000),
        ("report", "--allow-missing", "--results", "params.yaml"),
        ("report", "--allow-missing", "--out", "params.yaml"),
    ],
)
def test_odd_arguments_give_one_short_printable_error(arguments, fewshot, with_params):
    status, _, err = fewshot(*arguments)

    assert status == 2
    assert err.startswith("error: ")
    assert err.replace("\n", "").isprintable()
    assert len(err) < 5000


def test_experiment_of_another_suite_is_named_with_it(fewshot, with_params):
    status, _, err = fewshot("explain", "cifar_fs-resnet12-ridge-metaoptnet_cifar_fs-s0")

    assert status == 2
    assert "it is in metaoptnet: add --suite metaoptnet" in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glyphs-conv4-ridge-quik-s0", "Did you mean 'glyphs-conv4-ridge-quick-s0'?"),
        ("cifar_fs-resnet12-ridge-metaoptnet_cifar_fs-s0", "It is in metaoptnet: add --config suite=metaoptnet."),
    ],
)
def test_misspelt_experiment_among_the_arguments_of_snakemake(name, words):
    plan = load_plan(SHIPPED)

    with pytest.raises(ParamsError, match=rf"suite 'quickstart' has no experiment '{name}'") as error:
        check_experiment_names(plan, ["--cores", "1", name])

    assert words in str(error.value)
    assert "fewshot list --suite quickstart" in str(error.value)


@pytest.mark.parametrize("suite", ["quickstart", "metaoptnet"])
def test_every_experiment_of_the_suite_is_accepted_whatever_its_training_is_called(suite):
    plan = load_plan(SHIPPED, suite=suite)
    names = [experiment.name for experiment in plan.experiments]

    assert not set(names) <= {job.name for job in plan.train}
    check_experiment_names(plan, names)


def test_other_arguments_of_snakemake_are_left_to_it():
    arguments = ["-n", "train_al", "--config", "suite=quik-a-b-c", RIDGE, "my-name-space-of-pods", "results/a-b-c-d"]

    check_experiment_names(load_plan(SHIPPED), arguments)


def test_untrained_experiment_is_named_with_the_command_that_trains_it(fewshot, with_params):
    name = "cifar_fs-resnet12-ridge-metaoptnet_cifar_fs-s0"

    status, _, err = fewshot("export", name, "--suite", "metaoptnet")

    assert status == 2
    command = f"snakemake --cores 1 {name} --config suite=metaoptnet"
    assert err == f"error: {name} is not trained yet; run: {command}\n"


@pytest.mark.parametrize("text", ["[", "3", "stages: 3", "stages: {prepare: {deps: 3}}", "stages: {prepare: }"])
def test_dvc_file_that_is_not_what_dvc_writes(text, fewshot, with_params):
    (with_params / "dvc.yaml").write_text(text)

    status, _, err = fewshot("tidy", "prepare")

    assert (status, err == "") in ((0, True), (2, False))


def test_paths_and_settings_are_shown_escaped(fewshot, with_params):
    text = SHIPPED.read_text(encoding="utf-8").replace("prepare: {} ", 'prepare: {cub: {path: "a\\e[31mb"}} ', 1)
    text = text.replace(
        "{dataset: glyphs, learner: prototype, recipe: untrained}",
        "{dataset: cub, learner: svm, recipe: quick_svm, image_size: 28}",
    )
    (with_params / "params.yaml").write_text(text, encoding="utf-8")
    (with_params / "a\x1b[31mb").mkdir()
    (with_params / "results" / "train" / "x\x1b[31my" / "0123456789ab").mkdir(parents=True)

    prepared, trained = fewshot("tidy", "prepare"), fewshot("tidy", "train")

    assert "names a\\x1b[31mb, but DVC does not track it" in prepared[2]
    assert trained[:2] == (0, "moved to cache: results/train/x\\x1b[31my/0123456789ab\n")


def test_errors_of_the_system_are_one_line(fewshot, with_params, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device", "cache/digests.json")

    monkeypatch.setattr("fewshot.cli.options.load_plan", full)

    status, _, err = fewshot("list")

    assert status == 2
    assert err.startswith("error: cannot write cache/digests.json: No space left on device; ")


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

    monkeypatch.setattr("fewshot.cli.options.load_plan", stop)

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


def test_paths_that_are_not_utf8_are_shown(with_params):
    command = [sys.executable, "-m", "fewshot", "list", "--params", os.fsdecode(b"\xff.yaml")]

    run = subprocess.run(command, capture_output=True)

    assert (run.returncode, run.stderr.split(b": ")[1]) == (2, b"\\udcff.yaml")


@pytest.fixture
def elsewhere(with_params, tmp_path_factory, monkeypatch):
    """Put the shipped parameters into a project, and work in another folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return with_params


@pytest.mark.parametrize("order", ["before", "after"])
def test_project_may_be_given_before_or_after_the_command(fewshot, elsewhere, order):
    given = ("--project", str(elsewhere))
    status, out, _ = fewshot(*given, "list") if order == "before" else fewshot("list", *given)
    assert status == 0
    assert out.startswith("suite quickstart: ")


def test_project_may_be_given_by_a_variable(fewshot, elsewhere, monkeypatch):
    monkeypatch.setenv("FEWSHOT_PROJECT", str(elsewhere))
    assert fewshot("list")[1].startswith("suite quickstart: ")


def test_variable_does_not_lead_out_of_a_project(fewshot, elsewhere, monkeypatch):
    own = Path("params.yaml").absolute()
    own.write_text((elsewhere / "params.yaml").read_text(encoding="utf-8").replace("quickstart", "own"))
    monkeypatch.setenv("FEWSHOT_PROJECT", str(elsewhere))
    assert fewshot("list")[1].startswith("suite own: ")
    assert fewshot("list", "--project", str(elsewhere))[1].startswith("suite quickstart: ")


def test_paths_are_relative_to_the_folder_of_the_caller(fewshot, elsewhere):
    own = (elsewhere / "params.yaml").read_text(encoding="utf-8").replace("quickstart", "own")
    Path("mine.yaml").write_text(own, encoding="utf-8")
    assert fewshot("list", "--project", str(elsewhere), "--params", "mine.yaml")[1].startswith("suite own: ")


@pytest.mark.parametrize("source", ["--project", "FEWSHOT_PROJECT"])
def test_folder_that_is_no_project_is_refused(fewshot, project, monkeypatch, source):
    monkeypatch.setenv("FEWSHOT_PROJECT", "nowhere")
    status, _, err = fewshot("list", *(("--project", "nowhere") if source == "--project" else ()))
    assert (status, err) == (2, f"error: {source}: 'nowhere' has no params.yaml; give the folder of a project\n")


@pytest.mark.parametrize("command", ["check", "coverage", "list", "prune", "watch"])
def test_an_unknown_suite_is_a_mistake_of_the_command_line(fewshot, with_params, command):
    assert fewshot(command, "--suite", "typo")[2].startswith("error: --suite: unknown suite 'typo'; allowed: quick")


def test_an_empty_title_is_refused(fewshot, with_params):
    status, _, err = fewshot("expected", "--title", " ")

    assert status == 2
    assert "argument --title: is empty; describe the run" in err
