"""How far long work is: a bar with an estimate on a terminal, now and then a line where piped."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Move = Callable[[float, float], None]
"""Called with the work done and the whole work."""

shown = True
"""Whether progress is shown at all; `--quiet` turns it off."""

_SECONDS_BEFORE_LINES = 2.0
_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def sweep_progress(title: str, shown: bool = True) -> Iterator[Move]:
    """Show on stderr how far the block is; gives the function that says so.

    On a terminal a bar with an estimate; else, as in the log of a cluster, a line once the work has
    taken two seconds, and every ten seconds from then on. Nothing with `--quiet`.
    """
    console = Console(stderr=True)
    if not (shown and globals()["shown"]):
        yield lambda done, whole: None
    elif console.is_terminal:
        with _bar(title, console) as move:
            yield move
    else:
        yield _Lines(title)


@contextlib.contextmanager
def _bar(title: str, console: Console) -> Iterator[Move]:
    bar = Progress(
        TextColumn(title, markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, whole: bar.update(task, completed=done / whole if whole else 1.0)


class _Lines:
    """Progress as lines of a log."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._start = time.monotonic()
        self._next = self._start + _SECONDS_BEFORE_LINES

    def __call__(self, done: float, whole: float) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN_LINES
        share = done / whole if whole else 1.0
        elapsed = now - self._start
        left = f", about {_duration(elapsed * (1 - share) / share)} left" if 0 < share < 1 else ""
        text = f"{self._title}: {share:.0%} after {_duration(elapsed)}{left}"
        print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
