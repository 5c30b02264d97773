"""Signals that come while modules are imported: nothing has begun, and the process ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM, as shells have them."""

_SAID = {signal.SIGINT: ("interrupted", INTERRUPTED), signal.SIGTERM: ("terminated", TERMINATED)}


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within the block, which imports modules, Ctrl-C and SIGTERM end the process on the spot.

    An exception that is raised inside the import of compiled code is lost there, ends the process
    with an abort, or leaves a module half made. A signal that is ignored stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SAID}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, handler)


def _end(number: int, frame: Any) -> None:
    word, code = _SAID[signal.Signals(number)]
    print(f"{word} before anything had begun", file=sys.stderr, flush=True)
    os._exit(code)
