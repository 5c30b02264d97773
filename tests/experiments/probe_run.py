"""A run that notes when, where and with what it was executed, for tests of executors."""

import os
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from keelback.experiments import Run, RunResult
from keelback.experiments.run import Progress


class ProbeRun(Run):
    kind: ClassVar[str] = "probe"

    number: int
    seconds: float = 0.0
    bytes_needed: int = 0
    weight: float = 1.0

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
            yield (
                run,
                RunResult(
                    {
                        "started": started,
                        "ended": time.time(),
                        "process": os.getpid(),
                        "cores": ",".join(str(core) for core in sorted(os.sched_getaffinity(0))),
                        "threads": torch.get_num_threads(),
                    }
                ),
            )
