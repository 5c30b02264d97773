"""Ctrl-C and SIGTERM while modules are imported, where exceptions are lost."""

import signal
import subprocess
import sys

import pytest

from keelback.cli.interrupts import ending_at_once

SENT_WITHIN = """
import os, signal
from keelback.cli.interrupts import ending_at_once
{before}
try:
    with ending_at_once():
        try:
            os.kill(os.getpid(), signal.{name})
        except BaseException:  # As in the import of compiled code.
            pass
        print("went on", flush=True)
finally:
    print("left", flush=True)
"""


def sent_within(name: str, before: str = "") -> tuple[int, str, str]:
    program = SENT_WITHIN.format(name=name, before=before)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "word", "code"), [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 143)]
)
def test_the_process_ends_on_the_spot(name: str, word: str, code: int) -> None:
    reset = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    assert sent_within(name, reset) == (code, "", f"{word} before anything had begun\n")


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As Ctrl-C is for a command that a script runs with &."""
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert sent_within("SIGINT", ignored) == (0, "went on\nleft\n", "")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with ending_at_once():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
