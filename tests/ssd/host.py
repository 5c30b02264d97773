"""Puts the kernels compiled for the host in the place of those for the GPU."""

import struct
from typing import Any

import torch
from host_kernels import HostKernel, host_kernel

from keelback.ssd.cuda import backward, forward, launches, operator
from keelback.ssd.cuda.plan import Card

HOPPER = Card(processors=132, shared_bytes=227 << 10, wide=True)
AMPERE = Card(processors=108, shared_bytes=163 << 10)


def host_map(
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
    return struct.pack("=q4q3q4iii", address, *sizes, *strides, *box, dtype.itemsize, pitch).ljust(128, b"\0")


def measured_kernel(name: str, configuration: Any, device: int | None) -> HostKernel:
    """A host kernel that has as much shared memory as the plan reckons with."""
    found = host_kernel(name, configuration, device)
    assert found.shared_bytes == getattr(configuration, "shared_bytes", 0)
    return found


def on_host(replace: Any, card: Card = HOPPER) -> None:
    """`replace(module, name, value)` for everything that needs a GPU."""
    for module in (forward, backward, launches):
        replace(module, "kernel", measured_kernel)
    replace(launches, "encoded_map", host_map)
    replace(operator, "card_of", lambda device: card)
