"""What a run prints of Snakemake's messages."""

import io
import json
import logging
import time

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.tests import MockOutputSettings, TestLogHandlerBase

from fewshot.files import write_csv, write_json
from fewshot.training.history import COLUMNS
from fewshot.workflow.board import Board
from fewshot.workflow.run_view import OWN, RunView

KEY = "0123456789ab"
NAME = "glyphs-conv4-ridge-s0"


class TestInterface(TestLogHandlerBase):
    """The tests that the interface brings for its plugins."""

    __test__ = True

    def get_log_handler_cls(self):
        return RunView

    def get_log_handler_settings(self):
        return None


class Screen(io.StringIO):
    """A terminal of unknown size that keeps what is written."""

    def isatty(self):
        return True


class Shown:
    """A view and what it has printed."""

    def __init__(self, stream):
        settings = MockOutputSettings()
        settings.printshellcmds = False
        self.stream, self.view = stream, RunView(settings, None)
        self.view.board = Board(stream)
        self.view.setFormatter(logging.Formatter("%(message)s"))

    def say(self, text="", event=None, level=logging.INFO, **facts):
        record = logging.LogRecord("snakemake", level, "", 0, text, (), None)
        vars(record).update({"event": event, **facts})
        self.view.handle(record)

    def start(self, number=1, rule="train", output=(), **wildcards):
        named = wildcards or {"training": NAME, "key": KEY}
        message = f"{rule} {' '.join(named.values())}"
        self.say(
            event=LogEvent.JOB_INFO, jobid=number, rule_name=rule, rule_msg=message, wildcards=named, output=output
        )

    def finish(self, number=1):
        self.say(event=LogEvent.JOB_FINISHED, job_id=number)

    @property
    def lines(self):
        return self.stream.getvalue().splitlines()


@pytest.fixture
def shown(project):
    shown = Shown(io.StringIO())
    yield shown
    shown.view.close()


def trained(folder, **facts):
    """Write the result of a training whose second epoch was selected."""
    row = {"step": 1, "train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1, "validation_ci95": 0.01}
    epochs = [{**row, "epoch": epoch, "validation_accuracy": 0.7 + epoch / 100} for epoch in (1, 2, 3)]
    write_csv(folder / "history.csv", epochs, COLUMNS)
    write_json(folder / "run.json", {"selected_epoch": 2, "seconds": 41.4, "resumed_at_step": 0, **facts})
    return [str(folder / name) for name in ("history.csv", "run.json", "weights.safetensors")]


def test_a_training_ends_with_the_validation_of_the_selected_epoch(shown, project):
    shown.say(event=LogEvent.RUN_INFO, stats={"train": 1, "evaluate": 1, "all": 1, "total": 3})
    shown.start(output=trained(project))
    shown.finish()

    assert shown.lines == [
        "2 jobs: 1 train, 1 evaluate",
        f"[1/2] trained    {NAME:<40}  validation 72.0 %, 41 s",
    ]


def test_an_untrained_learner_has_no_line_for_its_training(shown, project):
    outputs = trained(project)
    write_csv(project / "history.csv", [], COLUMNS)
    shown.start(output=outputs)
    shown.finish()

    assert shown.lines == []


def test_an_evaluation_ends_with_its_accuracies(shown, project):
    rows = [
        {"shot": 1, "selection": "single", "accuracy": 0.8123, "ci95": 0.0061},
        {"shot": 5, "selection": "ensemble", "accuracy": 0.9361, "ci95": 0.0029},
    ]
    write_json(project / "cub.json", {"results": rows})
    shown.start(rule="evaluate", output=[str(project / "cub.json")], experiment=NAME, key=KEY, target="cub")
    shown.finish()

    assert "tested     glyphs-conv4-ridge-s0 on cub" in shown.lines[0]
    assert shown.lines[0].endswith("1-shot 81.2 ± 0.6, 5-shot ensemble 93.6 ± 0.3")


def test_a_restored_result_is_told_from_a_new_one(shown, project):
    shown.say(event=LogEvent.RUN_INFO, stats={"restore_train": 1, "report": 1, "total": 2})
    shown.start(rule="restore_train", output=trained(project))
    shown.finish()

    assert shown.lines[0] == "2 jobs: 1 train, 1 report, 1 of them only to restore"
    assert "restored   glyphs" in shown.lines[1]


def test_results_that_are_elsewhere_are_no_error(shown):
    shown.start(output=["results/train/run.json"])
    shown.finish()

    assert shown.lines == [f"[1/0] trained    {NAME}"]


def test_a_failed_job_names_its_log_and_shows_the_end_of_it(shown, project):
    (project / "job.log").write_text("".join(f"line {number}\n" for number in range(50)) + "error: no such file\n")
    shown.start()
    shown.say("RuleException: Command 'x' returned non-zero exit status 2.", LogEvent.ERROR, logging.ERROR)
    facts = {"rule_name": "train", "log": ["job.log"], "aux": {}}
    shown.say("Error in rule", LogEvent.JOB_ERROR, logging.ERROR, jobid=1, **facts)

    assert shown.lines[0] == f"FAILED: train {NAME}"
    assert shown.lines[-2:] == ["    error: no such file", "    log: job.log"]
    assert len(shown.lines) == 17
    assert shown.view.jobs == {}


def test_a_job_without_a_log_is_named(shown):
    facts = {"rule_name": "train", "log": ["none.log"], "aux": {"external_jobid": "17"}}
    shown.say("Error in rule", LogEvent.JOB_ERROR, logging.ERROR, jobid=1, **facts)

    assert shown.lines == ["FAILED: train", "    external_jobid: 17", "    log: none.log (empty or missing)"]


def test_what_snakemake_says_about_itself_is_not_shown(shown):
    for text in ("Building DAG of jobs...", "Select jobs to execute...", "Complete log(s): /x", "Execute 1 jobs..."):
        shown.say(text)
    shown.say("1 of 3 steps", LogEvent.PROGRESS, done=1, total=3)
    shown.say("MissingInputException in rule train", LogEvent.ERROR, logging.ERROR)
    shown.say("Elapsed time is a word of this project", **{OWN: True})

    assert shown.lines == ["MissingInputException in rule train", "Elapsed time is a word of this project"]


def test_a_dry_run_shows_what_snakemake_says(shown):
    shown.view.detailed = True
    shown.say("Building DAG of jobs...")

    assert shown.lines == ["Building DAG of jobs..."]


@pytest.fixture
def on_terminal(project, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = Shown(Screen())
    yield shown
    shown.view.close()


def test_a_job_at_work_has_a_line_until_it_ends(on_terminal, project):
    file = project / "cache" / "train" / KEY / "progress.json"
    file.parent.mkdir(parents=True)
    now = time.time()
    read = {"what": "step", "done": 30, "total": 120, "since": now - 10, "written": now, "loss": 0.51, "began": now}
    file.write_text(json.dumps({**read, "validation": 0.712}))

    on_terminal.start()
    assert on_terminal.lines[-1].startswith(f"train     {NAME}  25 %  30 s to go  step 30/120  loss 0.51")

    file.unlink()
    on_terminal.say()
    assert on_terminal.lines[-1].endswith(f"train     {NAME}  ending")

    on_terminal.finish()
    assert on_terminal.view.board._lines == []


def test_a_stopped_job_has_no_line(on_terminal):
    on_terminal.start()
    on_terminal.say("train a: SIGTERM: stopped after step 3", stopped_job=1, **{OWN: True})

    assert on_terminal.view.board._lines == []
    assert "train a: SIGTERM: stopped after step 3" in on_terminal.stream.getvalue()


def test_a_job_that_only_names_a_target_has_no_line(on_terminal):
    on_terminal.start(rule="all")
    on_terminal.finish()

    assert on_terminal.stream.getvalue() == ""
