"""A run that notes when, where and with what it was executed, for tests of executors."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch

from keelback.sweeps import Run, RunResult
from keelback.sweeps.run import Progress


class ProbeRun(Run):
    kind: ClassVar[str] = "probe"

    number: int
    seconds: float = 0.0
    bytes_needed: int = 0
    weight: float = 1.0
    meet: str = ""
    """A folder where the run waits for three others before it goes on."""

    def memory(self) -> int:
        return self.bytes_needed

    def cost(self) -> float:
        return self.weight

    @classmethod
    def execute(
        cls, runs: Sequence["ProbeRun"], progress: Progress
    ) -> Iterator[tuple["ProbeRun", RunResult]]:
        for run in runs:
            started = time.time()
            time.sleep(run.seconds)
            met = not run.meet or meet_three(Path(run.meet), run.number)
            yield (
                run,
                RunResult(
                    {
                        "started": started,
                        "ended": time.time(),
                        "process": os.getpid(),
                        "cores": ",".join(str(core) for core in sorted(os.sched_getaffinity(0))),
                        "threads": torch.get_num_threads(),
                        "met": met,
                        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
                    }
                ),
            )


def meet_three(folder: Path, number: int) -> bool:
    """Whether three others came while this one waited."""
    folder.mkdir(exist_ok=True)
    (folder / str(number)).touch()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(list(folder.iterdir())) >= 4:
            return True
        time.sleep(0.05)
    return False
