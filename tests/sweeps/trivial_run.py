"""A run that costs nothing, for tests of the runner and the store."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from keelback.errors import InputError
from keelback.sweeps import Run, RunResult
from keelback.sweeps.run import Progress


class TrivialRun(Run):
    kind: ClassVar[str] = "trivial"

    number: int
    batch: str = ""
    seconds: float = 0.0
    log: str = ""
    """A file that takes a line for each execution."""
    fault: str = ""

    def batch_key(self) -> str:
        return self.batch or self.name

    @classmethod
    def execute(
        cls, runs: Sequence["TrivialRun"], progress: Progress
    ) -> Iterator[tuple["TrivialRun", RunResult]]:
        for done, run in enumerate(runs):
            if run.log:
                with Path(run.log).open("a") as file:
                    file.write(f"{run.number}\n")
            time.sleep(run.seconds)
            if run.fault == "input":
                raise InputError("this run's input is wrong")
            if run.fault == "error":
                raise ZeroDivisionError("this run is broken")
            if run.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            history = [{"epoch": epoch, "square": run.number**2} for epoch in range(2)]
            yield run, RunResult({"double": 2 * run.number}, history)
            progress((done + 1) / len(runs))
