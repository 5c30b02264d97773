"""Where a sweep's jobs are executed: what the runner asks of an executor, and the plainest one."""

from abc import ABC, abstractmethod
from collections import deque

from keelback.sweeps.worker import BatchEnd, BatchProgress, Job, execute_job


class Executor(ABC):
    """Executes jobs, a few at a time, wherever that may be. One sweep uses it at a time."""

    def check(self) -> None:  # noqa: B027 (most have nothing to check)
        """Find out whether the executor can be had, before anything is written.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def start(self, jobs: int, report: BatchProgress) -> int:
        """Get ready for a sweep of `jobs` jobs at most; gives how many run side by side.

        `report` is called, during `wait`, with the progress of batches.

        Raises:
            InputError: what was asked for is not there.
        """

    @abstractmethod
    def has_room(self, memory: int) -> bool:
        """Whether a job that needs so many bytes can begin now; always, where none is running."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job that there is room for."""

    @abstractmethod
    def wait(self, seconds: float) -> list[list[BatchEnd]]:
        """The jobs that are over, by how their batches ended; waits up to `seconds` for one.

        Raises:
            JobError: a worker was killed, or the machines were lost.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the sweep; what is still running is killed."""


class ThisProcess(Executor):
    """Executes one job after the other in the calling process, with all of its threads."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()

    def start(self, jobs: int, report: BatchProgress) -> int:
        """One job at a time."""
        self._report = report
        return 1

    def has_room(self, memory: int) -> bool:
        """While none waits."""
        return not self._waiting

    def submit(self, job: Job) -> None:
        """Keep the job for `wait`."""
        self._waiting.append(job)

    def wait(self, seconds: float) -> list[list[BatchEnd]]:
        """Execute what waits."""
        return [execute_job(self._waiting.popleft(), self._report) for _ in tuple(self._waiting)]

    def stop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
