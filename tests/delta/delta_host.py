"""Puts the kernels compiled for the host in the place of those for the GPU."""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_cuda"))

from host_kernels import (
    AMPERE,
    COMPILER,
    DESKTOP,
    HOPPER,
    HostKernel,
    host_kernel,
    host_map,
)

from keelback.compiled import cuda_launch
from keelback.compiled.checks import finite_scale
from keelback.compiled.cuda_card import Card
from keelback.compiled.layouts import signature_of
from keelback.delta._operands import Operands
from keelback.delta.cuda import launch, step

__all__ = ["AMPERE", "COMPILER", "DESKTOP", "HOPPER", "delta_rule_by_kernels", "on_host"]


def measured_kernel(name: str, configuration: Any, device: int | None) -> HostKernel:
    """A host kernel that has as much shared memory as the plan reckons with."""
    found = host_kernel(name, configuration, device)
    assert found.shared_bytes == configuration.shared_bytes
    return found


def on_host(replace: Any, card: Card = HOPPER) -> None:
    """`replace(module, name, value)` for everything that needs a GPU."""
    replace(cuda_launch, "kernel", measured_kernel)
    replace(cuda_launch, "encoded_map", host_map)
    for module in (launch, step):
        replace(module, "card_of", lambda device: card)
    launch.prepare.cache_clear()


class _ByKernels(torch.autograd.Function):
    """The delta rule by the kernels, which must take it."""

    @staticmethod
    def forward(ctx: Any, options: Any, *operands: Any) -> Any:
        call = launch.prepare(signature_of(operands), options)
        assert isinstance(call, launch.CudaDelta)
        ctx.call, ctx.operands = call, operands
        return call.forward(operands, False)[:2]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, *ctx.call.backward(gradients, (None, None), ctx.operands), None


def delta_rule_by_kernels(
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    beta: Any,
    initial_states: Any = None,
    reset: Any = None,
    normalise: bool = False,
    scale: float | None = None,
    return_final_states: bool = True,
) -> Any:
    """As `delta_rule`, with both outputs."""
    operands = Operands(q, k, v, g, beta, initial_states, reset)
    return _ByKernels.apply((normalise, False, finite_scale(scale, k)), *operands)
