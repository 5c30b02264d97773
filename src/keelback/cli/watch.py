"""`keelback watch`: a sweep or a training under way, live on the terminal or as a local page."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelback.cli.app import app, print_json
from keelback.cli.options import Json
from keelback.cli.terminal import console

if TYPE_CHECKING:
    from keelback.watch import Reader

_LOOKS_AT_THE_END = 3
_WIDTH_OF_FILES = 10_000
_FRAMES_PER_SECOND = 4


@app.command()
def watch(
    directory: Annotated[
        Path,
        typer.Argument(
            help="Folder of a sweep or a training, as `keelback reproduce`, `keelback train` or "
            "the Trainer of transformers writes it; e.g. runs/all."
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Print the folder as it is now, and end.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Show a page in the browser; it is served to this machine only."
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the page, a whole number; by default any that is free; e.g. 8000.",
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.2, max=3600, help="Time between two readings, in seconds.")
    ] = 2.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of epochs that a training under way was asked for, which its checkpoint "
            "does not say; for the time left; by default unknown; e.g. 40.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Watch a sweep or a training: runs, curves, survivors, alarms and the time left.

    The folder is only read. On a terminal the view is renewed until everything is finished or
    Ctrl-C comes; into a pipe or a file it is printed once.
    """
    from keelback.errors import InputError

    if serve and (once or json):
        raise InputError(f"{'--once' if once else '--json'} has no effect beside --serve")
    if port is not None and not serve:
        raise InputError("--port is for the page; add --serve")
    with _without_downloads():
        from keelback.watch import PageServer, reader_of, render_terminal

        reader = reader_of(directory, epochs)
        seen = reader.read()
        if json:
            print_json(seen.to_json())
        elif serve:
            server = PageServer(reader, port or 0, every)
            print(
                f"{server.address} (read only, for this machine only; Ctrl-C ends it)", flush=True
            )
            _until_interrupted(server.serve)
        elif once or not sys.stdout.isatty():
            width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
            console(width=width).print(render_terminal(seen))
        else:
            _until_interrupted(lambda: _live(reader, every))


@contextmanager
def _without_downloads() -> Iterator[None]:
    """Keep the Hugging Face Hub's library from the network: to look must not download anything."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]


def _live(reader: "Reader", every: float) -> None:
    """Renew the view in place; the last one stays on the terminal."""
    from rich.live import Live

    from keelback.watch import render_terminal

    terminal = console()
    with Live(console=terminal, refresh_per_second=_FRAMES_PER_SECOND) as live:
        finished = 0
        while finished < _LOOKS_AT_THE_END:  # Between two experiments a sweep seems finished.
            seen = reader.read()
            live.update(render_terminal(seen, terminal.height), refresh=True)
            finished = finished + 1 if seen.state == "finished" else 0
            time.sleep(every if finished < _LOOKS_AT_THE_END else 0)


def _until_interrupted(work: Callable[[], None]) -> None:
    """Ctrl-C is how one stops looking, and no failure."""
    try:
        work()
    except KeyboardInterrupt:
        return
