"""`torch.ops.keelback.causal_conv1d` and its backward for tensors on an NVIDIA GPU."""

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled import cuda_driver
from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_header import header_text
from keelback.compiled.cuda_operands import PACK, adjacent, in_packs, sequences

THREADS = 128
#: Steps of a thread, at most and at least: longer runs read less twice, shorter ones fill the GPU.
LONGEST_RUN, SHORTEST_RUN = 64, 8
#: Threads of a multiprocessor that hide each other's waiting.
_ENOUGH_THREADS = 1024
#: Wider kernels have one channel a thread, lest it run out of registers.
_WIDEST_PACKED = 8

# Replaced where the kernels run on the host.
kernel: Any = cuda_driver.kernel


@dataclass(frozen=True)
class ConvConfiguration:
    """The constants that the kernels are compiled with."""

    sources: ClassVar[str] = "keelback.conv.cuda"

    dtype: torch.dtype
    width: int
    vector: int
    silu: bool

    @property
    def batch(self) -> int:
        """Steps that a thread loads at once."""
        return 8 if self.vector * self.width <= 16 and self.dtype != torch.float64 else 4

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {
            "kWidth": self.width,
            "kVector": self.vector,
            "kBatch": self.batch,
            "kThreads": THREADS,
        }
        return header_text(self.dtype, {}, integers, {"kSilu": self.silu})


@dataclass(frozen=True)
class _Launch:
    configuration: ConvConfiguration
    sizes: tuple[int, ...]
    blocks: int

    @property
    def runs(self) -> int:
        return self.sizes[4]


def _launch(x: Tensor, width: int, silu: bool, *others: Tensor) -> _Launch:
    replicas, rows, length, channels = x.shape
    packed = width <= _WIDEST_PACKED and channels % PACK == 0
    packed = packed and all(map(in_packs, (x, *others)))
    vector = PACK if packed else 1
    lanes = replicas * rows * channels // vector
    run = _run_length(x, lanes)
    runs = -(-length // run)
    return _Launch(
        ConvConfiguration(x.dtype, width, vector, silu),
        (replicas, rows, length, channels, runs, run),
        -(-lanes * runs // THREADS),
    )


def _run_length(x: Tensor, lanes: int) -> int:
    run, length = LONGEST_RUN, x.shape[2]
    while run > SHORTEST_RUN and lanes * -(-length // run) < _ENOUGH_THREADS * processors_of(
        x.device
    ):
        run //= 2
    return run


def _taps_first(weight: Tensor) -> Tensor:
    """(replica, channel, tap), the present last, as (replica, tap, channel), the present first."""
    return weight.flip(-1).mT.contiguous()


def _run(name: str, launch: _Launch, device: torch.device, *addresses: int) -> None:
    arguments = struct.pack(f"={len(launch.sizes)}i{len(addresses)}q", *launch.sizes, *addresses)
    kernel(name, launch.configuration, device.index).launch(launch.blocks, THREADS, arguments)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """Output of `keelback::causal_conv1d`."""
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    x, weights, bias = adjacent(x), _taps_first(weight), bias.contiguous()
    launch = _launch(x, weights.shape[1], silu)
    pointers = (weights.data_ptr(), bias.data_ptr(), y.data_ptr())
    _run("convolve", launch, x.device, *sequences(x), *pointers)
    return y


def correlate(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    replicas, _, _, channels = x.shape
    width = weight.shape[-1]
    dx = x.new_empty(x.shape)
    if dx.numel() == 0:
        return dx, torch.zeros_like(weight), torch.zeros_like(bias)
    x, dy = adjacent(x), adjacent(dy)
    weights, bias = _taps_first(weight), bias.contiguous()
    launch = _launch(x, width, silu, dy)
    partial = weights.new_empty(replicas, x.shape[1] * launch.runs, width + 1, channels)
    pointers = (weights.data_ptr(), bias.data_ptr(), dx.data_ptr(), partial.data_ptr())
    _run("correlate", launch, x.device, *sequences(x), *sequences(dy), *pointers)
    dtaps = partial.sum(1)
    return dx, dtaps[:, :width].flip(1).mT, dtaps[:, width]
