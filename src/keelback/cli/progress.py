"""How far long work is: a bar with an estimate on a terminal, now and then a line where piped."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from keelback.cli.terminal import console
from keelback.progress import Listener, in_words, listening

Move = Callable[[float, float], None]
"""Called with the work done and the whole work."""

shown = True
"""Whether progress is shown at all; `--quiet` turns it off."""

_SECONDS_BEFORE_LINES = 2.0
_SECONDS_BETWEEN_LINES = 10.0
_REFRESHES_PER_SECOND = 4


@contextlib.contextmanager
def sweep_progress(title: str, shown: bool = True) -> Iterator[Move]:
    """Show on stderr how far the block is; gives the function that says so.

    On a terminal a bar with an estimate; else, as in the log of a cluster, a line once the work has
    taken two seconds, and every ten seconds from then on. Nothing with `--quiet`.
    """
    with _shown(title, shown) as tell:
        yield lambda done, whole: tell("", done, whole)


@contextlib.contextmanager
def work_progress(title: str) -> Iterator[None]:
    """Show what the work within the block says of itself by `keelback.progress`.

    Each thing that it does begins a bar, and an estimate, of its own.
    """
    with _shown(title, shown) as tell, listening(tell):
        tell("", 0, 0)
        yield


@contextlib.contextmanager
def _shown(title: str, wanted: bool) -> Iterator[Listener]:
    terminal = console(stderr=True)
    if not (wanted and shown):
        yield lambda doing, done, whole: None
    elif terminal.is_terminal:
        with _bar(title, terminal) as tell:
            yield tell
    else:
        with _log(title) as tell:
            yield tell


@contextlib.contextmanager
def _bar(title: str, terminal: Console) -> Iterator[Listener]:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        refresh_per_second=_REFRESHES_PER_SECOND,
    )
    with bar:
        task = bar.add_task(title, total=None)
        current = ""

        def tell(doing: str, done: float, whole: float) -> None:
            nonlocal current, task
            if doing != current:
                current = doing
                bar.remove_task(task)
                task = bar.add_task(_named(title, doing), total=None)
            bar.update(task, completed=done, total=whole or None)

        yield tell


@contextlib.contextmanager
def _log(title: str) -> Iterator[Listener]:
    """Lines while the block runs, whether or not the work says anything in the meantime."""
    lines = _Lines(title)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            lines.write()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lines
    finally:
        over.set()
        watcher.join()


class _Lines:
    """Progress as lines of a log."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._doing = ""
        self._share: float | None = None
        self._start = time.monotonic()
        self._next = self._start + _SECONDS_BEFORE_LINES
        self._lock = threading.Lock()

    def __call__(self, doing: str, done: float, whole: float) -> None:
        with self._lock:
            if doing != self._doing:
                self._doing, self._start = doing, time.monotonic()
            self._share = done / whole if whole else None
        self.write()

    def write(self) -> None:
        """Write a line if it is time for one."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + _SECONDS_BETWEEN_LINES
            line = f"{_named(self._title, self._doing)}: {self._state(now - self._start)}"
        print(line, file=sys.stderr, flush=True)

    def _state(self, elapsed: float) -> str:
        share = self._share
        if share is None:
            return f"under way for {in_words(elapsed)}"
        left = f", about {in_words(elapsed * (1 - share) / share)} left" if 0 < share < 1 else ""
        return f"{share:.0%} after {in_words(elapsed)}{left}"


def _named(title: str, doing: str) -> str:
    return f"{title}, {doing}" if doing else title
