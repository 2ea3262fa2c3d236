"""The warm process: imports what jobs need, then forks itself for each request until its parent has ended.

Started by `warm.start` as `python -m fewshot.warm.server <listening socket> <threads>`. Standard input ends when the
parent has ended, in whatever way; jobs that are then at work are finished. This process has one thread and initializes
no GPU, because a fork would be unsafe otherwise.
"""

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fewshot.cli import computing
from fewshot.datasets import DATASETS
from fewshot.paths import PACKAGE_DIR
from fewshot.training.stop_signals import SIGNALS
from fewshot.warm.client import STANDARD_STREAMS, conditions, difference, import_folders
from fewshot.workflow.identity import module_digests

PACKAGES = [
    f"fewshot.{name}"
    for name in ("backbones", "episodes", "evaluation", "heads", "images", "learners", "solvers", "training")
]
REQUEST_S = 10.0  # for a command to send its request
REQUEST_BYTES = 4096
PARENT_DEATH_SIGNAL, NAME = 1, 15  # PR_SET_PDEATHSIG and PR_SET_NAME of prctl


@dataclass(frozen=True)
class Request:
    """What a command asks for; the attributes are those of `client`, and its standard streams."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    ignored: list[int]
    conditions: dict[str, Any]
    streams: list[int]


class Server:
    """Forks a process for each request.

    Args:
        listener: socket that commands connect to; its folder is removed with it.
        parent: file that ends when the parent has ended.
        refusal: returns why a request cannot be served; "" if it can.
    """

    def __init__(self, listener: socket.socket, parent: int, refusal: Callable[[Request], str]) -> None:
        self.listener = listener
        self.parent = parent
        self.refusal = refusal
        self.jobs: dict[socket.socket, int] = {}
        self.selector = selectors.DefaultSelector()
        self.ended, waker = socket.socketpair()
        waker.setblocking(False)
        self.waker = waker

    def run(self) -> Request | None:
        """Serve until the parent and all jobs have ended; in a job's process, return its request."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.waker.fileno())
        self.selector.register(self.parent, selectors.EVENT_READ, self._close)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(self.ended, selectors.EVENT_READ, self._report)
        while self.jobs or self.listener.fileno() >= 0:
            for key, _ in self.selector.select()[:1]:  # it may end another event's file
                if (request := key.data(key.fileobj)) is not None:
                    return request
        return None

    def _close(self, parent: int) -> None:
        """Accept no more requests."""
        address = Path(self.listener.getsockname())
        self.selector.unregister(parent)
        self.selector.unregister(self.listener)
        self.listener.close()
        with suppress(OSError):  # nothing else is removed
            address.unlink()
            address.parent.rmdir()

    def _accept(self, listener: socket.socket) -> Request | None:
        """Start a job for a command that has connected, or refuse; return its request in the job's process."""
        try:
            connection, _ = listener.accept()
        except OSError:  # no file descriptor is free; the command waits
            return None
        try:
            request = _receive(connection)
        except (OSError, ValueError, TypeError):  # the command has ended
            connection.close()
            return None
        job = -1
        try:
            refused = self.refusal(request)
        except (OSError, KeyError) as error:  # a file was replaced meanwhile, or the command is that of other code
            refused = f"what was imported cannot be compared ({error!r})"
        if not refused:
            try:
                job = os.fork()
            except OSError as error:
                refused = f"no process can be started ({error.strerror})"
        if job == 0:
            connection.close()
            self._leave()
            return request
        for stream in request.streams:
            os.close(stream)
        if job > 0:
            os.setpgid(job, job)  # processes that it starts are held with it
        if refused:
            _answer(connection, refused=refused)
            connection.close()
        else:
            _answer(connection, started=job)
            self.jobs[connection] = job
            self.selector.register(connection, selectors.EVENT_READ, self._pass_signals)
        return None

    def _pass_signals(self, connection: socket.socket) -> None:
        """Send a job the signals that its command received; kill it if the command was killed."""
        try:
            received = connection.recv(REQUEST_BYTES)
        except OSError:
            received = b""
        if not received:
            self.selector.unregister(connection)
        for number in received or (signal.SIGKILL,):
            send = os.killpg if number in (signal.SIGSTOP, signal.SIGCONT) else os.kill
            send(self.jobs[connection], number)

    def _report(self, ended: socket.socket) -> None:
        """Tell the commands of jobs that have ended how they did."""
        ended.recv(REQUEST_BYTES)
        for connection, job in list(self.jobs.items()):
            done, status = os.waitpid(job, os.WNOHANG)
            if done:
                _answer(connection, status=status)
                with suppress(KeyError):  # its command was killed
                    self.selector.unregister(connection)
                connection.close()
                del self.jobs[connection]

    def _leave(self) -> None:
        """Close what a job's process does not need: a socket that it kept open would look alive to its command."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()
        for opened in (self.listener, self.ended, self.waker, *self.jobs):
            opened.close()


def _receive(connection: socket.socket) -> Request:
    """Read a request.

    Raises:
        OSError: if it does not come in time.
        ValueError: if it is incomplete.
    """
    connection.settimeout(REQUEST_S)
    _, streams, _, _ = socket.recv_fds(connection, 1, len(STANDARD_STREAMS))
    try:
        if len(streams) < len(STANDARD_STREAMS):
            raise ValueError("streams are missing")
        return Request(**json.loads(connection.makefile("rb").readline()), streams=streams)
    except (OSError, ValueError, TypeError):
        for stream in streams:
            os.close(stream)
        raise


def _answer(connection: socket.socket, **answer: Any) -> None:
    with suppress(OSError):  # the command was killed
        connection.sendall(json.dumps(answer).encode() + b"\n")


def become(request: Request, server: int) -> None:
    """Give this process what the command that asked for it had: its folder, environment, streams and signals.

    Args:
        request: of the command.
        server: process id of the warm process, with which this process ends.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    libc.prctl(NAME, os.fsencode(" ".join(["fewshot", *request.arguments])))  # its first 15 bytes, in `top`
    if os.getppid() != server:
        os._exit(1)
    for descriptor, stream in zip(STANDARD_STREAMS, request.streams, strict=True):
        os.dup2(stream, descriptor)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = map(_reopened, (sys.stdin, sys.stdout, sys.stderr), STANDARD_STREAMS)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None  # depends on the environment
    if not sys.flags.safe_path:
        sys.path[0] = request.folder
    sys.argv[1:] = request.arguments
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _reopened(stream: TextIO, descriptor: int) -> Any:
    """Return a standard stream for what its descriptor now is, as the interpreter makes it at its start."""
    by_line = os.isatty(descriptor) or stream is sys.stderr or "PYTHONUNBUFFERED" in os.environ
    return open(
        descriptor, stream.mode, 1 if by_line else -1, encoding=stream.encoding, errors=stream.errors, closefd=False
    )


def load(threads: int) -> str:
    """Import and compute what jobs have in common; return why this process cannot be forked, "" if it can."""
    try:
        computing.import_jobs(threads)
        computing.warm_threads = threads
        for package in PACKAGES:
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
                with suppress(ImportError):  # of a package that few jobs need: those import it
                    importlib.import_module(module.name)
        importlib.import_module("torch._dynamo")  # as the first optimizer does
        numba_registry = importlib.import_module("numba.core.registry")
        numba_registry.cpu_target.target_context.refresh()  # as the first compiled function does
        named = [part.module for part in DATASETS.values()]
        loaded = [name for name in sys.modules if name.rpartition(".")[0] in PACKAGES]
        module_digests([*named, *loaded])  # which the plan of a job asks for
        n_threads = len(os.listdir("/proc/self/task"))
    except (Exception, SystemExit) as error:
        return f"it failed while importing ({type(error).__name__}: {error})"
    gc.collect()
    gc.freeze()  # so that a job's garbage collection does not copy the shared memory
    return f"the imported packages have started {n_threads - 1} threads" if n_threads > 1 else ""


def loaded_files() -> dict[str, tuple[int, int, int]]:
    """Return the state of the interpreter, the folders with packages and the files of this package, to see changes."""
    files = [path for path in PACKAGE_DIR.rglob("[!.]*") if path.is_file() and "__pycache__" not in path.parts]
    paths = [sys.executable, *filter(os.path.exists, import_folders()), *map(str, files)]
    states = {path: os.stat(path) for path in paths}
    return {path: (state.st_mtime_ns, state.st_size, state.st_ino) for path, state in states.items()}


def main(listener: socket.socket, threads: int) -> None:
    """Serve requests, each with the command line in a process of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # for the jobs alone
    own_conditions, files, server = conditions(), loaded_files(), os.getpid()
    problem = load(threads)

    def refusal(request: Request) -> str:
        if problem:
            return problem
        if different := difference(request.conditions, own_conditions):
            return f"this command has {different}"
        now = loaded_files()
        changed = sorted(path for path in {*files, *now} if files.get(path) != now.get(path))
        return f"{changed[0]} has changed since it was imported" if changed else ""

    request = Server(listener, sys.stdin.fileno(), refusal).run()
    if request is not None:
        become(request, server)
        from fewshot.__main__ import main as run_command

        run_command()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
