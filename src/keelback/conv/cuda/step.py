"""A step of the causal convolution on an NVIDIA GPU, by one kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled.cuda_header import header_text
from keelback.compiled.cuda_launch import ByPieces, ShortLaunch
from keelback.compiled.cuda_operands import addresses
from keelback.compiled.layouts import Blank, Layout
from keelback.compiled.state_packs import LARGEST
from keelback.conv.cuda.launch import fits_in_piece

THREADS = 64
#: Past inputs, with the present one, that a thread has in registers.
MOST_INPUTS = 16


@dataclass(frozen=True)
class StepConfiguration:
    """For `step.cu`: the state of a channel, and its weights, may lie in one piece of memory."""

    sources: ClassVar[str] = "keelback.conv.cuda"

    dtype: torch.dtype
    kept: torch.dtype
    tap: torch.dtype
    bias: torch.dtype | None
    past: int
    width: int
    state_in_piece: bool
    weight_in_piece: bool
    silu: bool

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {"Kept": self.kept, "Tap": self.tap, "Bias": self.bias or self.tap}
        integers = {"kPast": self.past, "kWidth": self.width, "kThreads": THREADS}
        flags = {
            "kStateInPiece": self.state_in_piece,
            "kWeightInPiece": self.weight_in_piece,
            "kHasBias": self.bias is not None,
            "kSilu": self.silu,
        }
        return header_text(self.dtype, types, integers, flags)


class CudaConvStep:
    """Steps of one signature, which have no gradients and overwrite the state."""

    def __init__(self, given: Sequence[Layout | None], silu: bool) -> None:
        self._given, self._silu = given, silu
        x: Any = given[0]
        self._y = Blank(x.shape, x.dtype, x.device)
        self._launch = ByPieces(self._made)

    def run(self, x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The output."""
        y = self._y()
        places = addresses((state, x, weight, bias, y))
        self._launch(places, places[0] | places[2])
        torch.autograd.graph.increment_version(state)
        return y

    def _made(self, aligned: bool) -> ShortLaunch:
        """For states and weights that begin where a piece may, or for others."""
        given: Any = self._given
        x, state, weight, bias = given
        rows, channels, past = state.shape
        configuration = StepConfiguration(
            dtype=x.dtype,
            kept=state.dtype,
            tap=weight.dtype,
            bias=bias.dtype if bias else None,
            past=past,
            width=weight.shape[1],
            state_in_piece=aligned and fits_in_piece(state),
            weight_in_piece=aligned and fits_in_piece(weight),
            silu=self._silu,
        )
        blocks = -(-rows * channels // THREADS)
        integers = (rows, channels, *_strides(given))
        return ShortLaunch("step", configuration, x.device.index, blocks, THREADS, 5, integers)


def prepare_step(given: Sequence[Layout | None], silu: bool) -> CudaConvStep | None:
    """The step over x, state, weight and bias like these, if the kernel takes them.

    It takes up to 15 past inputs, of which no two elements are one.
    """
    x, state, weight, _ = given
    assert x is not None
    assert state is not None
    assert weight is not None
    rows, channels, past = state.shape
    if not (rows and channels and 1 <= past < MOST_INPUTS):
        return None
    if state.repeats:
        return None
    if max(rows * channels + THREADS, *_strides(given)) > LARGEST:
        return None
    return CudaConvStep(given, silu)


def _strides(given: Sequence[Layout | None]) -> tuple[int, ...]:
    """As `StepArguments` has them."""
    x, state, weight, bias = given
    assert x is not None
    assert state is not None
    assert weight is not None
    return (*state.stride, *x.stride[:2], *weight.stride, *(bias.stride if bias else (0,)))
