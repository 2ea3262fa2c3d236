"""Kills stages at random moments. In a project folder: kill_stages.py <kills> <seed> <experiment> <dataset>.

Imports the heavy modules once and forks each process, so that a kill takes a fraction of a second. Prints as JSON how
each killed process ended.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import fewshot.workflow.jobs
import fewshot.workflow.suite_report
from fewshot import cli

LOG = Path("logs/kills.log")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def start(command):
    """Fork a process that runs a subcommand."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        out = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        cli.main(command)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(command):
    """Run a subcommand to completion; returns its duration in seconds."""
    began = time.monotonic()
    _, status = os.waitpid(start(command), 0)
    if status:
        sys.exit(f"{command} ended with {status}:\n{LOG.read_text()[-2000:]}")
    return time.monotonic() - began


def forget(folders):
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def kill_one(command, signal_number, delay):
    """Kill a subcommand after a delay; returns how it ended: -9, -15, 130, or None if it finished before."""
    child = start(command)
    time.sleep(delay)
    os.kill(child, signal_number)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 130, -signal_number):
        sys.exit(f"{command} ended with {code} after {signal_number.name}:\n{LOG.read_text()[-2000:]}")
    return code or None


def kill_stage(command, made, kills, chance):
    """Kill a stage `kills` times, then let it finish."""
    seconds = finish(command)
    forget(made)
    ends = []
    while len(ends) < kills:
        end = kill_one(command, SIGNALS[len(ends) % 2], chance.uniform(0, 1.1 * seconds))
        if end is None:
            forget(made)
        else:
            ends.append(end)
    finish(command)
    return ends


def main():
    kills, seed, experiment, dataset = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5]
    LOG.parent.mkdir(exist_ok=True)
    chance = random.Random(seed)
    stages = {
        "prepare": (["prepare", dataset], ["results/prepare", "cache/prepare", "data/prepared"]),
        "train": (["train", experiment], ["results/train", "cache/train"]),
        "evaluate": (["evaluate", experiment], ["results/evaluate", "cache/evaluate"]),
        "report": (["report"], ["results/tables"]),
    }
    ends = {}
    for number, (stage, (command, made)) in enumerate(stages.items()):
        share = kills // len(stages) + (number < kills % len(stages))
        ends[stage] = kill_stage(command, made, share, chance)
    print(json.dumps(ends))


assert fewshot.workflow.jobs
assert fewshot.workflow.suite_report
main()
