"""Puts the kernels compiled for the host in the place of those for the GPU."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_cuda"))

import host_kernels
from host_kernels import COMPILER, WATCH_RACES, host_kernel

from keelback.compiled import cuda_launch
from keelback.compiled.layouts import signature_of
from keelback.norm._operands import NormOperands, NormOptions
from keelback.norm.cuda import launch

__all__ = ["COMPILER", "WATCH_RACES", "by_kernels", "host_kernels", "on_host"]


def on_host(replace: Any, processors: int = 0) -> None:
    """`replace(module, name, value)` for everything that needs a GPU of so many multiprocessors.

    Where there are none, one block has all rows of a group, one after the other.
    """
    replace(cuda_launch, "kernel", host_kernel)
    replace(launch, "processors_of", lambda device: processors)
    launch.prepare.cache_clear()


def by_kernels(
    given: NormOperands[Tensor], dy: Tensor, options: NormOptions
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Output and gradients."""
    call = launch.prepare(signature_of(given), options)
    assert isinstance(call, launch.CudaNorm)
    y, scales = call.forward(given, True)
    alone, nothing = call.forward(given, False)
    assert nothing is None
    torch.testing.assert_close(alone, y, rtol=0, atol=0, equal_nan=True)
    return y, call.backward((dy,), (scales,), given)
