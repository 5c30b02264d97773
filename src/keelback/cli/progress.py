"""A progress bar with an estimate, on stderr."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def sweep_progress(title: str, shown: bool = True) -> Iterator[Callable[[float, float], None]]:
    """Show a bar on a terminal while the block runs; gives the function that moves it."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, whole: bar.update(task, completed=done / whole if whole else 1.0)
