"""Where a sweep's tasks are executed: what the runner asks of an executor, and the plainest one."""

from abc import ABC, abstractmethod
from collections import deque

from keelback.sweeps.worker import BatchEnd, BatchProgress, Task, execute_task


class Executor(ABC):
    """Executes tasks, a few at a time, wherever that may be. One sweep uses it at a time."""

    def check(self) -> None:  # noqa: B027 (most have nothing to check)
        """Find out whether the executor can be had, before anything is written.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def start(self, tasks: int, report: BatchProgress) -> int:
        """Get ready for a sweep of `tasks` tasks at most; gives how many run side by side.

        `report` is called, during `wait`, with the progress of batches.

        Raises:
            InputError: what was asked for is not there.
        """

    @abstractmethod
    def has_room(self, memory: int) -> bool:
        """Whether a task that needs so many bytes can begin now; always, where none is running."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Begin a task that there is room for."""

    @abstractmethod
    def wait(self, seconds: float) -> list[list[BatchEnd]]:
        """The tasks that are over, by how their batches ended; waits up to `seconds` for one.

        Raises:
            JobError: a worker was killed, or the machines were lost.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the sweep; what is still running is killed."""


class ThisProcess(Executor):
    """Executes one task after the other in the calling process, with all of its threads."""

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()

    def start(self, tasks: int, report: BatchProgress) -> int:
        """One task at a time."""
        self._report = report
        return 1

    def has_room(self, memory: int) -> bool:
        """While none waits."""
        return not self._waiting

    def submit(self, task: Task) -> None:
        """Keep the task for `wait`."""
        self._waiting.append(task)

    def wait(self, seconds: float) -> list[list[BatchEnd]]:
        """Execute what waits."""
        return [execute_task(self._waiting.popleft(), self._report) for _ in tuple(self._waiting)]

    def stop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
