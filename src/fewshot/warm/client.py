"""The part of a job's command that finds the warm process, hands the job to it and stands for it until it ends.

Imports only what the interpreter has loaded at its start or loads in a few milliseconds.

The two talk over a Unix socket, in lines of JSON. The command sends its standard streams and one request; the answer is
{"refused": why} or {"started": process id}, and then {"status": as of `os.waitpid`}. Between these, each byte that the
command sends is the number of a signal for the job. If the socket closes, the job is killed.
"""

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, BinaryIO

from fewshot.paths import PACKAGE_DIR
from fewshot.training.stop_signals import SIGNALS

ADDRESS = "FEWSHOT_WARM"  # environment variable: path of the socket, or OFF
OFF = "0"
SERVED = ("prepare", "train", "evaluate")
LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]
STANDARD_STREAMS = (0, 1, 2)  # file descriptors
# Variables that shells and Snakemake set for each job. No library reads the first ones while it is imported; `cli` sets
# the numbers of threads.
MAY_DIFFER = {
    ADDRESS, "SHLVL", "_", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "TEMPDIR",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
    "GOTO_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
}  # fmt: skip


def hand_over() -> None:
    """Let the warm process run this command, and end as its job does; return if there is none or it cannot.

    Raises:
        Interrupted: if a signal arrives before the job has started.
    """
    address = os.environ.pop(ADDRESS, OFF)
    if address in ("", OFF) or sys.argv[1:2] not in [[stage] for stage in SERVED]:
        return
    if None in (sys.stdin, sys.stdout, sys.stderr):  # the socket would take the place of a closed stream
        return
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            answers = connection.makefile("rb")
            _send_request(connection)
            answer = _read(answers)
            if "started" in answer:
                _pass_signals_to(connection)
                _end_with(_read(answers).get("status"))
        reason = answer.get("refused", "it ended before the job began")
    except OSError as error:
        reason = error.strerror or str(error)
    print(f"not started from the warm process: {reason}; importing everything again", file=sys.stderr)


def conditions() -> dict[str, Any]:
    """Return what a job and the process it is forked from must have in common, by name, as JSON has it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "interpreter": [sys.executable, sys.version, repr(sys.flags), sys.warnoptions, sorted(map(str, sys._xoptions))],
        "package": str(PACKAGE_DIR),
        "module path": import_folders(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name not in MAY_DIFFER},
        "limits of resources": [list(resource.getrlimit(getattr(resource, name))) for name in LIMITS],
        "allowed CPUs": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "umask": umask,
    }


def import_folders() -> list[str]:
    """Return where modules are found, without the first place, the folder of the caller or of the command `fewshot`."""
    return sys.path[0 if sys.flags.safe_path else 1 :]


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return which of two processes' conditions differ, with the names of variables; "" if none."""
    for name, value in ours.items():
        if theirs[name] != value:
            return f"another {name}{_variables(theirs[name], value) if name == 'environment' else ''}"
    return ""


def _variables(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    differ = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    return f" ({', '.join(differ)})"


def _send_request(connection: socket.socket) -> None:
    request = {
        "arguments": sys.argv[1:],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "ignored": [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN],
        "conditions": conditions(),
    }
    socket.send_fds(connection, [b"\n"], STANDARD_STREAMS)
    connection.sendall(json.dumps(request).encode() + b"\n")


def _read(answers: BinaryIO) -> dict[str, Any]:
    """Return the next answer; {} if the warm process has ended."""
    try:
        return json.loads(answers.readline() or b"{}")
    except ConnectionError:  # it was killed before it read a signal
        return {}


def _pass_signals_to(connection: socket.socket) -> None:
    """Send signals on to the job, instead of acting on them; Ctrl-Z stops both."""

    def send(number: int) -> None:
        with suppress(OSError):  # the job has ended
            connection.send(bytes([number]))

    def pass_on(number: int, frame: FrameType | None) -> None:
        send(number)

    def pause(number: int, frame: FrameType | None) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number, handler in (*((number, pass_on) for number in (*SIGNALS, signal.SIGCONT)), (signal.SIGTSTP, pause)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _end_with(status: int | None) -> None:
    """End as a job with this status did."""
    if status is None:
        print("error: the process that this job was forked from was killed; rerun the same command", file=sys.stderr)
        sys.exit(2)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        sys.exit(code)
    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    sys.exit(128 - code)  # the signal is blocked
