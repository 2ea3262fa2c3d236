"""Starts the warm process, for a run of Snakemake or for a block of code."""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from fewshot.warm.client import ADDRESS

# Elsewhere, a fork of a process that has loaded numerical libraries is not safe: macOS's own may have started threads.
POSSIBLE = sys.platform == "linux"
ENDING_S = 5.0
WAITING = 128  # commands that may wait while the process still imports


@contextmanager
def warm_process(threads: int = 1, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a warm process while the block runs; it also ends if this process is killed, after the jobs then at work.

    Args:
        threads: CPU threads per job, `train.threads`.
        environment: of the process; None: that of this one.

    Yields:
        The value of the environment variable `FEWSHOT_WARM` with which commands find it, also before it is ready.

    Raises:
        OSError: if no socket can be made in the system's folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="fewshot-", ignore_cleanup_errors=True) as folder:
        address = os.path.join(folder, "jobs")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(WAITING)
            process = subprocess.Popen(
                [sys.executable, "-m", "fewshot.warm.server", str(listener.fileno()), str(threads)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for the jobs, which pass it on
            )
        try:
            yield address
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):  # jobs are still at work
                process.wait(ENDING_S)


def warm_this_run(threads: int) -> str:
    """Start a warm process for the commands that this process starts, unless the environment names one or forbids it.

    Args:
        threads: CPU threads per job, `train.threads`.

    Returns:
        Why it could not be started; "" if it was, or was not wanted.
    """
    if not POSSIBLE or os.environ.get(ADDRESS):
        return ""
    running = ExitStack()
    try:
        os.environ[ADDRESS] = running.enter_context(warm_process(threads))
    except OSError as error:
        return f"{tempfile.gettempdir()}: {error.strerror or error}; every job imports everything itself"
    atexit.register(running.close)
    return ""
