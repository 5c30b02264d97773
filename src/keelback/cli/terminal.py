"""What reaches the terminal: nothing in other people's names and texts may steer it."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console

from keelback.errors import printable

_UP = "\x1b[A"
"""What bars of other libraries move up by on a terminal."""


_NARROWEST = 40
"""Columns of text."""


def open_closed_streams() -> None:
    """Let what is read and written go nowhere where the caller closed stdin, stdout or stderr.

    Files that the program opens would take their places, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


class CleanStream:
    """A text stream without the control characters of what is written to it.

    Line ends, tabs and carriage returns stay; of the rest "�" is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        self.steerable = stream

    def write(self, text: str) -> int:
        """Write the text without what could steer a terminal."""
        moves = _UP if self.steerable.isatty() else None
        parts = text.split(moves) if moves else [text]
        return self.steerable.write(_UP.join(_clean(part) for part in parts))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines, as `write`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.steerable, name)


def _clean(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t\r" else printable(c) or "�" for c in text)


@contextmanager
def clean_streams() -> Iterator[None]:
    """Within the block, whatever prints to stdout or stderr prints without control characters."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, CleanStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A Rich console, whose own colours and moves reach a terminal and nothing else.

    Every text that is not the program's own must go through `printable` first. Where a width is
    told that shows nothing, as COLUMNS=0 by some terminals, the narrowest counts that does.
    """
    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream.isatty()
    if isinstance(stream, CleanStream) and is_terminal:
        stream = stream.steerable
    made = Console(file=stream, **{"force_terminal": None if is_terminal else False, **options})
    made.width = max(made.width, _NARROWEST)
    return made
