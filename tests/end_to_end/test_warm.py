"""Jobs that are forked from the warm process of a run give the same bytes and end as those of a fresh interpreter."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fewshot.cli.computing import THREAD_VARIABLES
from fewshot.warm.start import POSSIBLE, warm_process

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not POSSIBLE, reason="jobs are forked only on Linux")]

REFUSED = "not started from the warm process: "
ENDLESS = ("steps_per_epoch: 3", "steps_per_epoch: 100000")
EXAMINE = """\
import os, sys
from fewshot.warm.server import load
assert not {"numpy", "torch", "numba"} & {*sys.modules}
problem = load(1)
import numba, torch
print(repr(problem), len(os.listdir("/proc/self/task")), flush=True)
if os.fork() == 0:  # a query for GPUs alone would make forks unusable
    os._exit(torch.cuda._is_in_bad_fork())
assert os.wait()[1] == 0
print(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, {os.environ[name] for name in sys.argv[1:]})
"""
RACING = """\
import socket, sys
from fewshot.warm.server import Server
def refusal(request):
    raise FileNotFoundError("4913")
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
Server(listener, sys.stdin.fileno(), refusal).run()
"""
PARENT = """\
import time
from fewshot.warm.start import warm_process
with warm_process() as address:
    print(address, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def warm(made):
    """A made project whose commands find a warm process."""
    with warm_process(environment=made.environment) as address:
        made.variables["FEWSHOT_WARM"] = address
        yield made


@pytest.fixture
def endless(warm):
    """A project with a warm process and a training that does not end by itself; it has saved its first epoch."""
    warm.edit(*ENDLESS)
    return warm


def server_of(project):
    """The warm process that the commands of a project find."""
    found = [child for child in psutil.Process().children() if "fewshot.warm.server" in child.cmdline()]
    (server,) = found
    return server


def start_training(project):
    """Start the command of a training; return it and its job, once that computes."""
    command = project.start(f"fewshot train {project.RIDGE}")
    for line in command.stdout:
        if "to go" in line:
            break
    (job,) = server_of(project).children()
    assert job.name() == "fewshot train s"
    return command, job


def ended(process, seconds=20):
    """Whether a process ends in time."""
    with suppress(psutil.NoSuchProcess):
        process.wait(seconds)
    return not process.is_running()


def test_a_run_gives_the_same_bytes_with_and_without_it(fresh, made):
    fresh.variables = {"FEWSHOT_WARM": "0"}
    fresh.snakemake()
    assert fresh.digests() == made.digests()
    for log in (made.folder / "logs").rglob("*.log"):
        assert REFUSED not in log.read_text(encoding="utf-8")


def test_the_jobs_of_a_run_are_forked(fresh):
    """With this variable, a process lists what it imports itself: a forked job not torch."""
    fresh.variables = {"PYTHONPROFILEIMPORTTIME": "1"}
    fresh.snakemake()
    logs = [log for stage in ("prepare", "train", "evaluate") for log in (fresh.folder / "logs" / stage).glob("*.log")]
    assert len(logs) == 7
    assert not [log for log in logs if re.search(r"\| +torch$", log.read_text(encoding="utf-8"), re.MULTILINE)]


def test_nothing_is_left_behind(fresh, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fresh.variables = {"TMPDIR": str(scratch)}
    fresh.snakemake(f"{fresh.PIXELS}")
    assert not list(scratch.glob("fewshot-*"))
    assert not [
        each for each in psutil.process_iter(["environ"]) if (each.info["environ"] or {}).get("TMPDIR") == str(scratch)
    ]


def test_a_folder_in_which_no_socket_can_be_made_is_named(made):
    """The path of a socket has at most 107 characters."""
    made.edit("ridge: 50.0", "ridge: 20.0")
    scratch = made.folder / ("long" * 30)
    scratch.mkdir()
    made.variables = {"TMPDIR": str(scratch)}
    text = made.snakemake(made.RIDGE).text
    assert f"Note: {scratch}: AF_UNIX path too long; every job imports everything itself" in text


@pytest.mark.parametrize("arguments", ["-n", "--config suite=tiny"])
def test_a_run_that_computes_nothing_starts_none(made, arguments):
    scratch = made.folder / ("long" * 30)
    scratch.mkdir()
    made.variables = {"TMPDIR": str(scratch)}  # in which it could not be started
    assert "imports everything itself" not in made.snakemake(arguments).text


def test_it_can_be_forked(made):
    """One thread, no initialized GPU; the number of threads is set before torch is imported."""
    made.variables = dict.fromkeys(THREAD_VARIABLES, "2")
    assert made.run([sys.executable, "-c", EXAMINE, *THREAD_VARIABLES]).text == "'' 1\n1 1 {'1'}\n"


def test_exit_status_and_output_are_those_of_the_job(warm):
    failed = warm.try_run("fewshot train shapes-conv4-rigde-quick-s0")
    assert (failed.status, "Traceback" in failed.text) == (2, False)
    assert f"Did you mean '{warm.RIDGE}'" in failed.text
    made = warm.run(f"fewshot train {warm.RIDGE}")
    assert REFUSED not in made.text
    assert f"restored: results/train/{warm.RIDGE}/" in made.text or "made: " in made.text


def test_several_at_once(warm):
    warm.edit("ridge: 50.0", "ridge: 20.0")
    commands = [warm.start(f"fewshot train {name}") for name in (warm.RIDGE, warm.PROTOTYPE, warm.PIXELS)]
    assert [command.wait(60) for command in commands] == [0, 0, 0]
    assert not [command for command in commands if REFUSED in command.stdout.read()]
    assert server_of(warm).children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_command_stops_the_job_with_its_state_saved(endless, number):
    command, job = start_training(endless)
    os.killpg(command.pid, number)
    text = command.communicate(timeout=60)[0]
    assert (command.returncode, ended(job)) == (130, True)
    step = text.partition(f"{number.name}: stopped after step ")[2].partition(";")[0]
    again = endless.start(f"fewshot train {endless.RIDGE}")
    line = next(line for line in again.stdout if "resuming after step" in line or "to go" in line)
    again.kill()
    assert f"resuming after step {step} of" in line


def test_a_killed_command_kills_its_job(endless):
    command, job = start_training(endless)
    command.kill()
    command.communicate()
    assert ended(job)
    assert endless.try_run("fewshot train nothing").status == 2, "the warm process goes on"


def test_a_job_that_is_killed_by_the_system_ends_its_command_in_the_same_way(endless):
    command, job = start_training(endless)
    job.kill()
    command.communicate(timeout=60)
    assert command.returncode == -signal.SIGKILL


def test_ctrl_z_holds_the_job(endless):
    command, job = start_training(endless)
    command.send_signal(signal.SIGTSTP)
    wait_until(lambda: job.status() == psutil.STATUS_STOPPED)
    command.send_signal(signal.SIGCONT)
    wait_until(lambda: job.status() != psutil.STATUS_STOPPED)
    command.kill()
    command.communicate()


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_if_it_is_killed_its_jobs_end_and_later_commands_start_by_themselves(endless):
    command, job = start_training(endless)
    server_of(endless).kill()
    text = command.communicate(timeout=60)[0]
    assert (command.returncode, ended(job)) == (2, True)
    assert "was forked from was killed; rerun the same command" in text
    assert f"{REFUSED}Connection refused; " in endless.try_run("fewshot train nothing").text


def test_it_outlives_a_killed_parent_only_until_its_jobs_have_ended(made):
    made.edit(*ENDLESS)
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=made.environment, stdout=subprocess.PIPE, text=True)
    made.variables["FEWSHOT_WARM"] = address = parent.stdout.readline().strip()
    (server,) = psutil.Process(parent.pid).children()
    command = made.start(f"fewshot train {made.RIDGE}")
    next(line for line in command.stdout if "to go" in line)
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(address).parent.exists())
    assert (command.poll(), server.is_running()) == (None, True)
    command.terminate()
    assert "SIGTERM: stopped after step" in command.communicate(timeout=60)[0]
    assert ended(server)


def test_a_file_that_is_replaced_during_a_comparison_ends_nothing(made, tmp_path):
    """Editors replace files; the process also removes nothing but its socket and an empty folder."""
    address, bystander = tmp_path / "socket", tmp_path / "bystander"
    bystander.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", RACING, address], env=made.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline()
    made.variables["FEWSHOT_WARM"] = str(address)
    for _ in range(2):
        text = made.try_run("fewshot train nothing").text
        assert f"{REFUSED}what was imported cannot be compared (FileNotFoundError('4913'))" in text
    process.stdin.close()
    assert process.wait(20) == 0
    assert (address.exists(), bystander.exists()) == (False, True)


def test_edited_source_is_not_run_from_memory(warm):
    assert REFUSED not in warm.run(f"fewshot train {warm.RIDGE}").text
    loop = warm.folder / "src/fewshot/training/train.py"
    loop.write_text(f"{loop.read_text(encoding='utf-8')}\nprint('edited')\n", encoding="utf-8")
    text = warm.run(f"fewshot train {warm.RIDGE}").text
    assert f"{REFUSED}{loop} has changed since it was imported; importing everything again" in text
    assert "edited" in text


@pytest.mark.parametrize(("name", "value"), [("NUMBA_DEBUG", "0"), ("FEWSHOT_RECORD", "0"), ("TZ", "UTC")])
def test_another_environment_is_refused(warm, name, value):
    warm.variables[name] = value
    assert f"{REFUSED}this command has another environment ({name}); " in warm.run(f"fewshot train {warm.RIDGE}").text


def test_another_priority_is_refused(warm):
    assert f"{REFUSED}this command has another priority; " in warm.run(f"nice -n 3 fewshot train {warm.RIDGE}").text


def test_another_number_of_threads_is_an_error(warm):
    warm.edit("train: {device: cpu}", "train: {device: cpu, threads: 2}")
    failed = warm.try_run(f"fewshot train {warm.RIDGE}")
    assert failed.status == 2
    assert (
        "train.threads is 2, but the process named by FEWSHOT_WARM computes with 1; unset FEWSHOT_WARM" in failed.text
    )


def test_a_training_on_two_devices(warm):
    """The job's own processes are started anew, and the result is the same."""
    warm.edit("    meta_batch: 1\n", "    meta_batch: 2\n    devices: 2\n")
    key = warm.train_key(warm.RIDGE)
    assert REFUSED not in warm.run(f"fewshot train {warm.RIDGE}").text
    weights = warm.folder / f"results/train/{warm.RIDGE}/{key}/weights.safetensors"
    expected = weights.read_bytes()
    warm.run(["rm", "-r", "results/train", "cache/train"])
    warm.variables["FEWSHOT_WARM"] = "0"
    warm.run(f"fewshot train {warm.RIDGE}")
    assert weights.read_bytes() == expected
