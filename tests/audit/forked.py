"""Processes for the tests, forked from one that has loaded what takes each of them seconds."""

import faulthandler
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing


def on_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` on each process, and wait for all.

    Raises:
        ProcessRaisedException: one of them failed.
        ProcessExitedException: a signal ended one; where it stood is on its standard error.
    """
    multiprocessing.set_forkserver_preload(["torch", "transformers.modeling_utils"])
    torch.multiprocessing.start_processes(
        _on_one, args=(function, *arguments), nprocs=count, start_method="forkserver"
    )


def _on_one(rank: int, function: Callable[..., None], *arguments: Any) -> None:
    faulthandler.enable()
    function(rank, *arguments)
