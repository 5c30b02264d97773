"""Puts the kernels compiled for the host in the place of those for the GPU."""

from typing import Any

from host_kernels import AMPERE, DESKTOP, HOPPER, HostKernel, host_kernel, host_map
from torch import Tensor

from keelback.compiled import cuda_launch
from keelback.compiled.cuda_card import Card
from keelback.compiled.layouts import signature_of
from keelback.ssd.cuda import launch

__all__ = ["AMPERE", "DESKTOP", "HOPPER", "on_host", "prepared", "run_backward", "run_forward"]

OPERANDS = 10


def measured_kernel(name: str, configuration: Any, device: int | None) -> HostKernel:
    """A host kernel that has as much shared memory as the plan reckons with."""
    found = host_kernel(name, configuration, device)
    assert found.shared_bytes == getattr(configuration, "shared_bytes", 0)
    return found


def on_host(replace: Any, card: Card = HOPPER) -> None:
    """`replace(module, name, value)` for everything that needs a GPU."""
    replace(cuda_launch, "kernel", measured_kernel)
    replace(cuda_launch, "encoded_map", host_map)
    replace(launch, "card_of", lambda device: card)
    launch.prepare.cache_clear()


def prepared(arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The scan over the operands at the head of the arguments of `torch.ops.keelback.ssd`."""
    operands, options = arguments[:OPERANDS], arguments[OPERANDS:]
    call = launch.prepare(signature_of(operands), options)
    assert isinstance(call, launch.CudaSsd)
    return call, operands


def run_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Output and last states by the kernels."""
    call, operands = prepared(arguments)
    y, last = call.forward(operands, False)
    return y, last


def run_backward(dy: Any, dlast: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """The gradients by the kernels."""
    call, operands = prepared(arguments)
    return tuple(call.backward((dy, dlast), (), operands))
