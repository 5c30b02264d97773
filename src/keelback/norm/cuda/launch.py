"""The gated norm on an NVIDIA GPU: its plans, buffers and launches."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_launch import Launch
from keelback.compiled.cuda_operands import PIECE_BYTES, address
from keelback.compiled.layouts import Blank, Layout, Signature, layouts_of
from keelback.norm._operands import NormOperands, NormOptions, output_dtype
from keelback.norm._walk import Walk, Walks
from keelback.norm.cuda.configuration import (
    TOTAL_THREADS,
    TotalConfiguration,
    configuration_of,
)

_COLUMNS = 32  # of a block of `total.cu`


class _Planned(NamedTuple):
    """A launch, and into how many parts it cuts the rows of a group."""

    launch: Launch
    slots: int


class CudaNorm:
    """The norms of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: NormOperands[Layout], options: NormOptions) -> None:
        self._given, self._options = given, options
        x, self._device, self._walks = given.x, given.x.device, Walks(given)
        *rows, channels = x.shape
        self._groups = channels // options.group_of(channels)
        self._empty = 0 in x.shape
        self._real = torch.float64 if x.dtype == torch.float64 else torch.float32
        self._y = Blank(x.shape, output_dtype(given, options), x.device)
        self._dx = Blank(x.shape, x.dtype, x.device)
        self._dgate = None if given.gate is None else Blank(x.shape, given.gate.dtype, x.device)
        self._scales = Blank((*rows, self._groups), self._real, x.device)
        self._launches: dict[Any, _Planned] = {}
        self._totals: dict[int, Launch] = {}

    def _planned(self, name: str, walk: Walk, aligned: bool) -> _Planned:
        key = (name, walk, aligned)
        if key not in self._launches:
            configuration = configuration_of(
                name, self._given, self._options, walk.strides, aligned, walk.is_one_axis
            )
            enough = configuration.blocks * processors_of(self._device)
            most = -(-walk.rows // configuration.teams)
            slots = max(1, min(most, enough // (walk.replicas * self._groups)))
            inputs = dict(zip(("x", "gate", "dy"), walk.strides, strict=False))
            launch = Launch(
                name,
                configuration,
                self._device.index,
                walk.replicas * self._groups * slots,
                configuration.threads,
                (walk.rows, walk.middle, walk.inner, self._groups, slots),
                {**self._numbers(name), **inputs, **self._others(name)},
            )
            self._launches[key] = _Planned(launch, slots)
        return self._launches[key]

    def _numbers(self, name: str) -> dict[str, int]:
        """What a kernel's argument has before its operands."""
        (bits,) = struct.unpack("=q", struct.pack("=d", self._options.epsilon))
        return {"epsilon": bits} if name == "normalise" else {}

    def _others(self, name: str) -> dict[str, tuple[int, ...]]:
        """What it has behind them."""
        weight = {"weight": (self._given.x.shape[-1] if self._walks.replicated else 0,)}
        found = ("y", "scales") if name == "normalise" else ("scales", "dx", "dgate", "partial")
        return {**weight, **dict.fromkeys(found, ())}

    def _read(self, walk: Walk, *tensors: Tensor | None) -> tuple[list[Any], bool]:
        """Tensors whose channels are adjacent, and whether all begin at 16 bytes."""
        read = [
            x.contiguous() if x is not None and copied else x
            for x, copied in zip(tensors, (*walk.copied, True), strict=True)
        ]
        return read, not any(address(x) % PIECE_BYTES for x in read)

    def forward(
        self, operands: Sequence[Tensor | None], keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and one over the root mean squares for the backward pass."""
        y, scales = self._y(), self._scales() if keep else None
        if self._empty:
            return y, scales
        walk = self._walks.forward()
        read, aligned = self._read(walk, *operands)
        planned = self._planned("normalise", walk, aligned)
        planned.launch([address(one) for one in (*read, y, scales)])
        return y, scales

    def _kept(self, scales: Tensor | None, operands: Sequence[Tensor | None]) -> Tensor:
        """What was kept, without gaps, or computed again where nothing was."""
        if scales is None:
            _, scales = self.forward(operands, True)
        assert scales is not None
        return scales.contiguous()

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of x, the gate and the weight."""
        x, gate, weight = operands
        (dy,), (scales,) = gradients, kept
        assert dy is not None
        dx, dgate = self._dx(), None if self._dgate is None else self._dgate()
        if self._empty:
            return dx, dgate, None if weight is None else torch.zeros_like(weight)
        scales = self._kept(scales, operands)
        walk = self._walks.backward(dy)
        read, aligned = self._read(walk, x, gate, dy, weight)
        planned = self._planned("gradients", walk, aligned)
        partial = None
        if weight is not None:
            parts = (walk.replicas, planned.slots, dx.shape[-1])
            partial = torch.empty(parts, dtype=self._real, device=self._device)
        found = (scales, dx, dgate, partial)
        planned.launch([address(one) for one in (*read, *found)])
        return dx, dgate, None if weight is None else self._total(partial, weight)

    def _total(self, partial: Any, weight: Tensor) -> Tensor:
        """The gradient of the weight, from its parts."""
        replicas, slots, channels = partial.shape
        if slots not in self._totals:
            configuration = TotalConfiguration(self._given.x.dtype, weight.dtype)
            blocks = replicas * -(-channels // _COLUMNS)
            self._totals[slots] = Launch(
                "total",
                configuration,
                self._device.index,
                blocks,
                TOTAL_THREADS,
                (channels, slots),
                {"partial": (), "dweight": ()},
            )
        dweight = torch.empty(weight.shape, dtype=weight.dtype, device=self._device)
        self._totals[slots]([partial.data_ptr(), dweight.data_ptr()])
        return dweight


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> CudaNorm:
    """The norms of operands with this signature, and with these options."""
    given: Any = NormOperands(*layouts_of(signature))
    return CudaNorm(given, NormOptions(*options))
