"""Sequences that are cut along their length over several processes, to be scanned there."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.benchmarks.scan_inputs import dtype_named
from keelback.errors import InputError
from keelback.models.mamba_stack import STEP_RANGE
from keelback.scan import selective_scan, selective_scan_across
from keelback.ssd import ssd, ssd_across

Operands = dict[str, Tensor]
HEAD_DIM = 64
#: A of the heads at the start of a Mamba-2, from the first to the last.
RATES_BY_HEADS = (1.0, 16.0)


@dataclass(frozen=True)
class LongSequence(ABC):
    """A sequence too long for one's patience or memory; a batch of one.

    Step sizes and A start as Mamba's, A times `rate`: at a hundredth, states are remembered for
    some hundred thousand steps.
    """

    length: int
    channels: int
    state: int
    rate: float = 1.0

    along: ClassVar[tuple[str, ...]]
    """The output and the operands that are cut along the length; gradients of the other operands
    are summed over the processes."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """What the columns of a table say about it."""

    @property
    @abstractmethod
    def exchanged(self) -> int:
        """How many numbers each process sends in a pass."""

    @abstractmethod
    def operands(self, parts: range, of: int, device: torch.device) -> tuple[Operands, Tensor]:
        """Those of some of the parts, and the gradient of their output.

        Each part comes from a generator of its own, so that it is the same within the whole.
        """

    @abstractmethod
    def scan(self, **operands: Tensor) -> Tensor:
        """The output, on one process."""

    @abstractmethod
    def scan_across(self, **operands: Tensor) -> Tensor:
        """The output of this process's part."""

    def _drawn(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        parts: range,
        of: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Operands:
        """Normal numbers of these parts, with axes for the batch and the length before."""
        size = self.length // of
        found = {
            name: torch.empty(1, size * len(parts), *shape, device=device, dtype=dtype)
            for name, shape in shapes.items()
        }
        for start, part in zip(range(0, self.length, size), parts, strict=False):
            generator = torch.Generator(device).manual_seed(part)
            for x in found.values():
                x[:, start : start + size].normal_(generator=generator)
        return found


def _bias(size: int, generator: torch.Generator) -> Tensor:
    """That of step sizes which go through softplus, as a Mamba begins with."""
    low, high = map(math.log, STEP_RANGE)
    return torch.empty(size).uniform_(low, high, generator=generator).exp().expm1().log()


@dataclass(frozen=True)
class LongScan(LongSequence):
    """Of a selective scan, in float32."""

    along = ("y", "u", "delta", "B", "C")

    @property
    def sizes(self) -> dict[str, Any]:
        """Length, channels, states and the factor of A."""
        return {
            "length": self.length,
            "channels": self.channels,
            "state": self.state,
            "A, times": self.rate,
        }

    @property
    def exchanged(self) -> int:
        """States and decays."""
        return 2 * self.channels * self.state

    def operands(self, parts: range, of: int, device: torch.device) -> tuple[Operands, Tensor]:
        """Those of `selective_scan` with softplus."""
        shapes = {
            "u": (self.channels,),
            "delta": (self.channels,),
            "B": (1, self.state),
            "C": (1, self.state),
            "dy": (self.channels,),
        }
        found = self._drawn(shapes, parts, of, device)
        dy = found.pop("dy")
        generator = torch.Generator().manual_seed(of)
        rates = self.rate * torch.arange(1.0, self.state + 1).repeat(self.channels, 1)
        found["A"] = -rates.to(device)
        found["D"] = torch.randn(self.channels, generator=generator).to(device)
        found["delta_bias"] = _bias(self.channels, generator).to(device)
        return {name: x.requires_grad_() for name, x in found.items()}, dy

    def scan(self, **operands: Tensor) -> Tensor:
        """`selective_scan`."""
        given: dict[str, Any] = dict(operands)
        y = selective_scan(**given, delta_softplus=True)
        assert isinstance(y, Tensor)
        return y

    def scan_across(self, **operands: Tensor) -> Tensor:
        """`selective_scan_across`."""
        given: dict[str, Any] = dict(operands)
        y = selective_scan_across(**given, delta_softplus=True)
        assert isinstance(y, Tensor)
        return y


@dataclass(frozen=True)
class LongScanByHeads(LongSequence):
    """Of Mamba-2's scan by heads of 64 channels; its parameters are in float32."""

    dtype: str = "float32"

    along = ("y", "x", "dt", "B", "C")

    def __post_init__(self) -> None:
        dtype_named(self.dtype)
        if self.channels % HEAD_DIM:
            raise InputError(
                f"channels is {self.channels}; for a scan by heads it should be a multiple of "
                f"{HEAD_DIM}"
            )

    @property
    def heads(self) -> int:
        """Heads, of `HEAD_DIM` channels."""
        return self.channels // HEAD_DIM

    @property
    def sizes(self) -> dict[str, Any]:
        """Length, heads, their channels, states, dtype and the factor of A."""
        return {
            "length": self.length,
            "heads": self.heads,
            "head_dim": HEAD_DIM,
            "state": self.state,
            "dtype": self.dtype,
            "A, times": self.rate,
        }

    @property
    def exchanged(self) -> int:
        """States, and one decay for each head."""
        return self.heads * (HEAD_DIM * self.state + 1)

    def operands(self, parts: range, of: int, device: torch.device) -> tuple[Operands, Tensor]:
        """Those of `ssd` with softplus."""
        shapes = {
            "x": (self.heads, HEAD_DIM),
            "dt": (self.heads,),
            "B": (1, self.state),
            "C": (1, self.state),
            "dy": (self.heads, HEAD_DIM),
        }
        found = self._drawn(shapes, parts, of, device, dtype_named(self.dtype))
        dy = found.pop("dy")
        generator = torch.Generator().manual_seed(of)
        found["A"] = -self.rate * torch.linspace(*RATES_BY_HEADS, self.heads, device=device)
        found["D"] = torch.randn(self.heads, generator=generator).to(device)
        found["dt_bias"] = _bias(self.heads, generator).to(device)
        return {name: x.requires_grad_() for name, x in found.items()}, dy

    def scan(self, **operands: Tensor) -> Tensor:
        """`ssd`."""
        given: dict[str, Any] = dict(operands)
        y = ssd(**given, dt_softplus=True)
        assert isinstance(y, Tensor)
        return y

    def scan_across(self, **operands: Tensor) -> Tensor:
        """`ssd_across`."""
        given: dict[str, Any] = dict(operands)
        y = ssd_across(**given, dt_softplus=True)
        assert isinstance(y, Tensor)
        return y
