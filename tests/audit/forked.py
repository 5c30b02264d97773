"""Processes for the tests, forked from one that has loaded what takes each of them seconds."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing


def on_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` on each process, and wait for all.

    Raises:
        ProcessRaisedException: one of them failed.
    """
    multiprocessing.set_forkserver_preload(["torch", "transformers.modeling_utils"])
    torch.multiprocessing.start_processes(
        function, args=arguments, nprocs=count, start_method="forkserver"
    )
