"""Several processes that train one model decide as one."""

from collections import Counter
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

_PATIENCE = timedelta(minutes=5)
"""How long to wait for the others; collectives give up after ten minutes by default."""
_made: Counter[str] = Counter()


class Agreement:
    """Lets every process of a group know what each of them has to say.

    Args:
        group: the processes that train the model together; all of them if `None`. A group of one
            decides by itself.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self._name = ""

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

    def missing(self, step: int) -> list[int]:
        """Which processes do not come to a step; none where all do. The same on all that come.

        Nothing of the training's own communication is used for this, so that a process which does
        not come, because it never asks the monitor, is not waited for in vain later.
        """
        if self.processes == 1:
            return []
        store, ranks = _store(), dist.get_process_group_ranks(self._group or dist.group.WORLD)
        if store is None:
            return []
        name = f"{self._named(ranks)}/{step}"
        store.set(f"{name}/{dist.get_rank()}", "here")
        if store.add(f"{name}/here", 1) == len(ranks):
            store.compare_set(f"{name}/all", "", "yes")
        else:
            try:
                store.wait([f"{name}/all"], _PATIENCE)
            except dist.DistStoreError:
                absent = [str(rank) for rank in ranks if not store.check([f"{name}/{rank}"])]
                store.compare_set(f"{name}/all", "", ",".join(absent) or "yes")
        found = store.get(f"{name}/all").decode()
        return [] if found == "yes" else [int(rank) for rank in found.split(",")]

    def _named(self, ranks: list[int]) -> str:
        if not self._name:
            group = "-".join(map(str, ranks)) if len(ranks) < 16 else f"{len(ranks)}-{ranks[:8]}"
            self._name = f"keelback/monitor/{group}/{_made[group]}"
            _made[group] += 1
        return self._name


def _store() -> Any:
    try:
        from torch.distributed.distributed_c10d import _get_default_store

        return _get_default_store()
    except (ImportError, ValueError, RuntimeError):
        return None
