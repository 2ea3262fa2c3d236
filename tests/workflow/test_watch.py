"""The jobs at work, as a second terminal shows them."""

import io
import subprocess
import sys
import threading
import time

import pytest

from fewshot.experiments.params import Params
from fewshot.progress import report, reported_in
from fewshot.settings import parse_as
from fewshot.training.stop_signals import Interrupted
from fewshot.workflow import watch as watching
from fewshot.workflow.plan import make_plan


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def plan(project, tiny_params):
    return make_plan(parse_as(Params, tiny_params(), where=""), "tiny")


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setattr(watching, "POLL_S", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


def started(plan, screen):
    thread = threading.Thread(target=watching.watch, args=(plan, screen), daemon=True)
    thread.start()
    return thread


def wait_for(screen, text, seconds=30.0):
    end = time.monotonic() + seconds
    while text not in screen.getvalue():
        assert time.monotonic() < end, screen.getvalue()
        time.sleep(0.01)


def test_without_a_run_it_ends_and_says_what_is_finished(plan, screen):
    watching.watch(plan, screen)

    counts = "0 of 1 data sets prepared, 0 of 1 models trained, 0 of 1 evaluations made"
    assert screen.getvalue().splitlines() == [f"suite tiny: {counts}", f"No job is at work: {counts}."]


def test_it_shows_a_job_at_work_and_ends_with_it(plan, screen):
    (job,) = plan.train
    with reported_in(job.progress_file):
        report("step", 3, 12)
        while not job.progress_file.exists():
            time.sleep(0.01)
        thread = started(plan, screen)
        wait_for(screen, f"train     {job.name}  25 %  step 3/12")
    thread.join(30)

    assert not thread.is_alive()


def test_a_signal_ends_the_watching_alone(plan, screen, monkeypatch):
    def interrupted():
        raise Interrupted("SIGINT: stopped; rerun the same command to continue")

    monkeypatch.setattr(watching, "is_running", interrupted)
    with pytest.raises(Interrupted, match=r"^stopped watching; jobs at work go on$"):
        watching.watch(plan, screen)


@pytest.fixture
def run(project):
    """Return a process that is registered as a running Snakemake."""
    code = "from fewshot.workflow.running import register; kept = register(); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_it_shows_what_is_finished_while_a_run_lasts(plan, screen, run):
    thread = started(plan, screen)
    wait_for(screen, "suite tiny")
    (job,) = plan.train
    job.dir.mkdir(parents=True)
    for file in job.outputs.values():
        file.write_text("{}" if file.suffix == ".json" else "")

    wait_for(screen, f"trained    {job.name}")
    assert thread.is_alive()
    run.kill()
    run.wait()
    thread.join(30)
    assert "1 of 1 models trained" in screen.getvalue().splitlines()[-1]
