"""A process that measures, and is ended where it takes too long."""

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from keelback.errors import InputError

Measure = Callable[[str, Any], Iterator[tuple[str, Any]]]
"""What the process runs, for the name of a thing and the settings: yields numbers by name."""


class Worker:
    """One process for one thing after the other; a new one follows where one was ended."""

    def __init__(
        self, measure: Measure, settings: Any, warm_up: Callable[[Any], None] | None = None
    ) -> None:
        """`warm_up` is called with the settings before any time counts."""
        self._given = (measure, settings, warm_up)
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._link, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._given), daemon=True)
        self._process.start()
        other.close()
        self._ready = False

    def results_of(self, name: str, limit: float) -> tuple[list[tuple[str, Any]], str | None]:
        """What was measured of a thing within `limit` seconds, and why not all of it, if so.

        The time that a new process takes to load the measure's modules and to warm up does not
        count.
        """
        if not self._ready:
            self._link.recv()
            self._ready = True
        end = time.monotonic() + limit
        self._link.send(name)
        found: list[tuple[str, Any]] = []
        while self._link.poll(max(0.0, end - time.monotonic())):
            try:
                kind, value = self._link.recv()
            except EOFError:
                self._process.join(10.0)
                self._start_again()
                return found, f"the process ended with {self._code}"
            if kind != "found":
                return found, value
            found.append(value)
        self._start_again()
        return found, f"not done in {limit:g} s"

    def _start_again(self) -> None:
        self._end()
        self._start()

    def _end(self) -> None:
        self._link.close()
        self._process.kill()
        self._process.join()
        self._code = self._process.exitcode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()


def _serve(
    link: Connection, measure: Measure, settings: Any, warm_up: Callable[[Any], None] | None
) -> None:
    if warm_up is not None:
        warm_up(settings)
    link.send("ready")
    while True:
        try:
            name = link.recv()
        except EOFError:
            return
        try:
            for found in measure(name, settings):
                link.send(("found", found))
        except (InputError, RuntimeError) as error:
            link.send(("failed", str(error).splitlines()[0]))
        else:
            link.send(("done", None))
