"""What a signal does to a process of this project; each case is a process of its own."""

import signal
import subprocess
import sys

import pytest

WAIT = "print('ready', flush=True); time.sleep(30)"
LOOP = """
from fewshot.training.stop_signals import stop_signals
with stop_signals() as stopped:
    print('ready', flush=True)
    while not stopped():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    print('saved', stopped(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print('after', flush=True)
"""


def stopped_process(body: str, *numbers: signal.Signals, ignored: signal.Signals | None = None) -> tuple[int, str]:
    """Run code in a process, send it signals when it is ready; return its exit status and the rest of its output."""
    start = "import os, signal, time\nfrom fewshot.training.stop_signals import raise_on_signals\nraise_on_signals()\n"

    def prepare() -> None:
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", start + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=prepare,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    return process.returncode, text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_interrupts_and_later_ones_are_ignored(number: signal.Signals) -> None:
    body = f"try:\n {WAIT}\nexcept KeyboardInterrupt as stop:\n os.kill(os.getpid(), {int(number)}); print(stop)"

    status, text = stopped_process(body, number)

    assert (status, text) == (0, f"{number.name}: stopped; rerun the same command to continue\n")


def test_a_loop_ends_after_its_step_and_is_not_interrupted_while_it_saves() -> None:
    status, text = stopped_process(LOOP, signal.SIGINT)

    assert (status, text) == (0, "saved SIGINT\nafter\n")


def test_an_ignored_signal_stays_ignored() -> None:
    body = f"try:\n {WAIT}\nexcept KeyboardInterrupt as stop:\n print(stop)"

    _, text = stopped_process(body, signal.SIGHUP, signal.SIGTERM, ignored=signal.SIGHUP)

    assert text.startswith("SIGTERM: stopped")


def test_a_signal_during_an_import_ends_the_process_without_an_exception() -> None:
    guard = "from fewshot.training.stop_signals import exit_on_signals\n"
    body = f"{guard}try:\n with exit_on_signals(): {WAIT}\nexcept BaseException: print('raised')"

    status, text = stopped_process(body, signal.SIGTERM)

    assert (status, text) == (130, "SIGTERM: stopped; rerun the same command to continue\n")


def test_after_an_import_signals_interrupt_again() -> None:
    guard = "from fewshot.training.stop_signals import exit_on_signals\nwith exit_on_signals(): pass\n"
    body = f"{guard}try:\n {WAIT}\nexcept KeyboardInterrupt as stop: print('raised', stop)"

    status, text = stopped_process(body, signal.SIGINT)

    assert (status, text) == (0, "raised SIGINT: stopped; rerun the same command to continue\n")
