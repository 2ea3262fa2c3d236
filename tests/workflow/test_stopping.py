"""What is shown of Snakemake's messages when jobs stop or fail; the shell that writes the logs."""

import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from fewshot.workflow.stopping import Stop

LOGGED = Path(__file__).parents[2] / "workflow" / "scripts" / "logged.sh"


def message(text: str, level: int = logging.ERROR, **facts) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", level, "", 0, text, (), None)
    vars(record).update({"event": LogEvent.ERROR, **facts})
    return record


def job_error(log: Path) -> logging.LogRecord:
    return message("Error in rule train", event=LogEvent.JOB_ERROR, rule_name="train", jobid=7, log=[str(log)])


@pytest.mark.parametrize("end", ["returned non-zero exit status 130.", "died with <Signals.SIGTERM: 15>."])
def test_a_stopped_job_is_one_line(end, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="snakemake.logging")
    log = tmp_path / "a-conv4-s0-0123456789ab.log"
    log.write_text("epoch 1\nSIGTERM: stopped after step 3\n\n")
    stop = Stop()

    shown = [stop.filter(message(f"Command 'x' {end}")), stop.filter(job_error(log))]

    assert shown == [False, False]
    assert caplog.messages == ["train a-conv4-s0: SIGTERM: stopped after step 3"]
    assert caplog.records[0].stopped_job == 7
    assert stop.filter(caplog.records[0])
    assert stop.happened


def test_the_last_message_about_stopped_jobs_is_no_failure(tmp_path):
    stop = Stop()
    stop.filter(message("Command 'x' returned non-zero exit status 130."))
    stop.filter(job_error(tmp_path / "l"))

    assert stop.filter(message("Finished jobid: 3", logging.INFO, event=LogEvent.JOB_FINISHED))
    assert not stop.filter(message("Exiting because a job execution failed.", event=None))
    assert stop.happened


def test_a_failed_job_is_shown(tmp_path, capsys):
    stop = Stop()

    shown = [
        stop.filter(message("Command 'x' returned non-zero exit status 2.")),
        stop.filter(job_error(tmp_path / "l")),
    ]

    assert shown == [True, True]
    assert capsys.readouterr().err == ""
    assert not stop.happened


def test_a_stop_and_a_failure_are_a_failure(tmp_path):
    stop = Stop()
    stop.filter(message("Command 'x' returned non-zero exit status 130."))
    stop.filter(job_error(tmp_path / "l"))

    stop.filter(message("Command 'y' returned non-zero exit status 1."))

    assert not stop.happened


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        (
            "OSError: [Errno 28] No space left on device\n",
            "cannot write .snakemake: No space left on device; free some",
        ),
        (
            "OSError: [Errno 30] Read-only file system: '/a b/c'",
            "cannot write /a b/c: Read-only file system; free some",
        ),
        ("NotADirectoryError: [Errno 20] Not a directory: 'logs/x'", "cannot write logs/x: Not a directory; free some"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'x'", "Traceback"),
    ],
)
def test_a_disk_that_snakemake_cannot_write_is_one_line(end, shown):
    record = message(f"Traceback (most recent call last):\n  File x\n{end}")

    assert Stop().filter(record)
    assert record.getMessage().startswith(shown)


def started(log: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(["bash", LOGGED, log, *command], start_new_session=True, stderr=subprocess.PIPE, text=True)


def wait_for(log: Path, text: str) -> None:
    while not log.exists() or text not in log.read_text():
        pass


def test_the_shell_waits_for_a_job_that_saves_its_state(tmp_path):
    log = tmp_path / "log"
    job = "trap 'sleep 0.3; echo saved; exit 130' TERM; echo ready; while true; do sleep 0.05; done"
    process = started(log, "bash", "-c", job)
    wait_for(log, "ready")

    os.killpg(process.pid, signal.SIGTERM)

    assert process.wait(timeout=60) == 130
    assert log.read_text().splitlines()[-1] == "saved"


def test_a_job_that_a_signal_ended_before_it_listened_is_stopped_not_failed(tmp_path):
    log = tmp_path / "log"
    process = started(log, "bash", "-c", "touch $0.ready; exec sleep 60", str(log))
    while not (tmp_path / "log.ready").exists():
        pass

    os.killpg(process.pid, signal.SIGTERM)  # SIGHUP would be ignored under nohup

    assert process.wait(timeout=60) == 130
    assert log.read_text() == "stopped before it began; rerun the same command to continue\n"


def test_other_statuses_are_passed_on(tmp_path):
    assert started(tmp_path / "log", "bash", "-c", "echo wrong; exit 2").wait(timeout=60) == 2


def test_a_failure_without_a_log_names_the_disk():
    process = started(Path("/dev/full"), "bash", "-c", "echo wrong; exit 2")

    assert "the disk may be full" in process.communicate(timeout=60)[1]
