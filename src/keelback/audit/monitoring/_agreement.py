"""Several processes that train one model decide as one."""

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


class Agreement:
    """Lets every process of a group know what each of them has to say.

    Args:
        group: the processes that train the model together; all of them if `None`. A group of one
            decides by itself.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group

    @property
    def processes(self) -> int:
        """How many decide together; 1 where nothing was set up."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(self._group)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all of them, to a log or a file."""
        return self.processes == 1 or dist.get_rank(self._group) == 0

    def gathered(self, own: T) -> list[T]:
        """What each process has to say, in the order of their ranks, the same on all of them."""
        processes = self.processes
        if processes == 1:
            return [own]
        every: list[Any] = [None] * processes
        dist.all_gather_object(every, own, group=self._group)
        return every
