"""Puts the kernels compiled for the host in the place of those for the GPU."""

import struct
from typing import Any

import torch
from host_kernels import HostKernel, host_kernel
from torch import Tensor

from keelback.compiled import cuda_launch
from keelback.compiled.cuda_card import Card
from keelback.compiled.layouts import signature_of
from keelback.ssd.cuda import launch

HOPPER = Card(processors=132, shared_bytes=227 << 10, wide=True)
AMPERE = Card(processors=108, shared_bytes=163 << 10)
OPERANDS = 10


def host_map(
    device: int | None,
    address: int,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
) -> bytes:
    """`TensorMap` of tests/scan_cuda/bulk_intrinsics.h; a driver refuses what it refuses."""
    assert all(one % 16 == 0 for one in (address, *strides))
    pitch = box[0] * dtype.itemsize
    assert pitch in (64, 128)
    assert max(box) <= 256
    packed = struct.pack("=q4q3q4iii", address, *sizes, *strides, *box, dtype.itemsize, pitch)
    return packed.ljust(128, b"\0")


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
