"""What `snakemake` and `dvc repro` print: on a terminal, in a file, with nothing to do, after an error and a stop."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
FIRST = "Using workflow specific profile profiles/default for setting default command line arguments."


def on_terminal(project, command):
    """Run a command on a pseudo-terminal; return its exit status and what it wrote."""
    master, slave = pty.openpty()
    environment = {**project.environment, "TERM": "xterm"}
    process = subprocess.Popen(
        command.split(), cwd=project.folder, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    text = b""
    while True:
        try:
            text += os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            os.close(master)
            return process.wait(timeout=60), text.decode()


def test_lines_of_a_run_without_a_terminal(made):
    """Every line is said once: the plan, one line per job, the table and where the files are."""
    made.edit("ridge: 50.0", "ridge: 20.0")
    first, plan, hint, *jobs = made.snakemake().text.splitlines()

    assert first == FIRST
    assert plan == "3 jobs: 1 train, 1 evaluate, 1 report"
    assert "`fewshot watch` shows the jobs at work" in hint
    assert re.fullmatch(rf"\[1/3\] trained    {made.RIDGE} +validation \d+\.\d %, \d+ s", jobs[0])
    assert re.fullmatch(rf"\[2/3\] tested     {made.RIDGE} +1-shot \d+\.\d ± \d+\.\d", jobs[1])
    assert re.fullmatch(r"\[3/3\] reported   tiny +\d+ (s|min) in all", jobs[2])
    assert "\n".join(jobs[3:]).strip() == table_and_files(made)
    assert not CONTROL.search("\n".join(jobs))


def table_and_files(project):
    table = project.read("results/tables/tiny/results.txt").strip()
    place = "results/tables/tiny/report.html  (also results.csv .md .tex, runs.csv, figures/, curves/)"
    return f"{table}\n\nReport: {place}"


def test_with_nothing_to_do_it_ends_with_the_table_too(made):
    first, nothing, *rest = made.snakemake().text.splitlines()

    assert (first, nothing.partition(" (")[0]) == (FIRST, "Nothing to be done")
    assert "\n".join(rest).strip() == table_and_files(made)


def test_a_part_of_the_suite_ends_without_the_table(made):
    assert "Report:" not in made.snakemake("train_all").text


@pytest.mark.slow
def test_on_a_terminal_a_line_is_updated_in_place(made):
    made.edit("ridge: 50.0", "ridge: 20.0")
    made.edit("steps_per_epoch: 3", "steps_per_epoch: 300")
    status, text = on_terminal(made, f"snakemake --cores 2 {made.RIDGE}")

    assert status == 0
    assert re.search(rf"\x1b\[1A\x1b\[Jtrain     {made.RIDGE}  \d+ %  \d+ s to go  step [\d,]+/600  loss \d", text)
    assert re.search(rf"\[1/2\] trained    {made.RIDGE}", text)


def test_an_error_shows_the_end_of_the_log_and_its_path(made):
    made.edit("ridge: 50.0", "ridge: 20.0")
    loop = made.folder / "src/fewshot/training/train.py"
    loop.write_text(f"{loop.read_text()}\nraise SystemExit('error: the reason')\n")
    failed = made.try_run(f"snakemake --cores 2 {made.RIDGE}")

    assert failed.status == 1
    log = f"logs/train/{made.RIDGE}-{made.train_key(made.RIDGE)}.log"
    assert f"FAILED: train {made.RIDGE}\n" in failed.text
    assert f"\n    error: the reason\n    log: {log}\n" in failed.text
    assert "Traceback" not in failed.text


def wait_for_progress(project, process, seconds=120):
    """Wait until a training reports steps."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        for file in project.folder.glob("cache/train/*/progress.json"):
            if json.loads(file.read_text())["what"] == "step":
                return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_mistake_made_during_a_run_concerns_the_next_one(made):
    made.edit("ridge: 50.0", "ridge: 20.0")
    made.edit("steps_per_epoch: 3", "steps_per_epoch: 200")
    process = made.start(f"snakemake --cores 2 {made.RIDGE}")
    wait_for_progress(made, process)
    made.edit("suite: tiny", "suite: [tiny")
    text, _ = process.communicate(timeout=300)

    assert process.returncode == 0, text
    assert "error: params.yaml: not valid YAML" in made.try_run("fewshot list").text


@pytest.mark.slow
def test_a_stop_says_little_and_leaves_no_progress(made):
    made.edit("ridge: 50.0", "ridge: 20.0")
    made.edit("steps_per_epoch: 3", "steps_per_epoch: 100000")
    process = made.start(f"snakemake --cores 2 {made.RIDGE}")
    wait_for_progress(made, process)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)

    assert process.returncode == 130
    stopping, stopped, *summary = text.splitlines()[-4:]
    assert stopping == "SIGTERM: stopping; running jobs save their state first."
    assert stopped.startswith(f"train {made.RIDGE}: SIGTERM: stopped after step")
    assert [line.split(". ")[0].split(":")[0] for line in summary] == [
        "Stopped by SIGTERM",
        "Rerun the same command to resume from the last checkpoints",
    ]
    assert not list(made.folder.glob("cache/train/*/progress.json"))


@pytest.mark.slow
def test_dvc_shows_the_same(made):
    made.edit("ridge: 50.0", "ridge: 20.0")
    text = made.repro().text

    assert f"[1/1] trained    {made.RIDGE}" in text
    assert text.count("Report: results/tables/tiny/report.html") == 1


def test_the_plugin_is_found_by_snakemake(made):
    code = (
        "from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry as R; print(R().plugins.keys())"
    )
    assert "'fewshot'" in made.run([sys.executable, "-c", code]).text
