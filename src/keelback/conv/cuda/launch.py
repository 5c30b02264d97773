"""The causal convolution on an NVIDIA GPU: its plans, buffers and launches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_header import header_text
from keelback.compiled.cuda_launch import Launch
from keelback.compiled.cuda_operands import (
    PACK,
    PIECE_BYTES,
    address,
    all_strides,
    in_packs,
    layout_of,
    outer_strides,
)
from keelback.compiled.layouts import Blank, Layout, Signature, layouts_of
from keelback.conv._operands import ConvOperands

THREADS = 128
#: Steps of a thread, at most and at least: longer runs read less twice, shorter ones fill the GPU.
LONGEST_RUN, SHORTEST_RUN = 64, 8
#: Threads of a multiprocessor that hide each other's waiting.
_ENOUGH_THREADS = 1024
#: Wider kernels have one channel a thread, lest it run out of registers.
_WIDEST_PACKED = 8


@dataclass(frozen=True)
class ConvConfiguration:
    """The constants that the kernels are compiled with."""

    sources: ClassVar[str] = "keelback.conv.cuda"

    dtype: torch.dtype
    tap: torch.dtype
    bias: torch.dtype | None
    width: int
    vector: int
    taps_in_piece: bool
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
        types = {"Tap": self.tap, "Bias": self.bias or self.tap}
        flags = {
            "kTapsInPiece": self.taps_in_piece,
            "kHasBias": self.bias is not None,
            "kSilu": self.silu,
        }
        return header_text(self.dtype, types, integers, flags)


class CudaConv:
    """The convolutions of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: ConvOperands[Layout], silu: bool) -> None:
        x = given.x
        self.x = x if x.adjacent else x.in_row_major_order()
        self._weight, self._bias = given.weight, given.bias
        self._silu, self._width, self._device = silu, given.weight.shape[-1], x.device
        *replicas, rows, length, channels = x.shape
        self._replicas = tuple(replicas)
        self._sizes = (replicas[0] if replicas else 1, rows, length, channels)
        self._empty = 0 in self._sizes
        self._pack_bytes = PACK * x.dtype.itemsize
        self._like_x = Blank(x.shape, x.dtype, x.device)
        self._real = torch.promote_types(x.dtype, torch.float32)
        self._launches: dict[Any, tuple[Launch, int]] = {}

    def runs(self, vector: int) -> tuple[int, int]:
        """Into how many runs of a thread the length is cut, and their length.

        As long as many threads remain, up to `LONGEST_RUN`.
        """
        replicas, rows, length, channels = self._sizes
        threads, run = replicas * rows * channels // vector, LONGEST_RUN
        enough = _ENOUGH_THREADS * processors_of(self._device)
        while run > SHORTEST_RUN and threads * -(-length // run) < enough:
            run //= 2
        return -(-length // run), run

    def vector(self, fits: bool, *sequences: Layout) -> int:
        """Channels of a thread, given whether all tensors begin where a pack may."""
        packed = fits and self._width <= _WIDEST_PACKED and self._sizes[3] % PACK == 0
        return PACK if packed and all(map(in_packs, sequences)) else 1

    def _launch(
        self, name: str, fits: bool, in_piece: bool, *sequences: Layout
    ) -> tuple[Launch, int]:
        """Of tensors that lie so; and the runs into which it cuts the length."""
        key = (name, fits, in_piece, *[one.stride for one in sequences])
        if key not in self._launches:
            vector = self.vector(fits, *sequences)
            runs, run = self.runs(vector)
            replicas, rows, _, channels = self._sizes
            threads = replicas * rows * channels // vector * runs
            weight, bias = self._weight, self._bias
            inputs = {f"sequence {i}": outer_strides(x, 3) for i, x in enumerate(sequences)}
            parameters = {"weight": all_strides(weight, 3), "bias": all_strides(bias, 2)}
            launch = Launch(
                name,
                ConvConfiguration(
                    dtype=self.x.dtype,
                    tap=weight.dtype,
                    bias=bias.dtype if bias else None,
                    width=self._width,
                    vector=vector,
                    taps_in_piece=in_piece and fits_in_piece(weight),
                    silu=self._silu,
                ),
                self._device.index,
                -(-threads // THREADS),
                THREADS,
                (*self._sizes, runs, run),
                {**inputs, **parameters, **dict.fromkeys(_OUTPUTS[name], ())},
            )
            self._launches[key] = launch, runs
        return self._launches[key]

    def forward(self, operands: Sequence[Tensor | None], keep: bool) -> tuple[Tensor]:
        """The output."""
        given: ConvOperands[Any] = ConvOperands(*operands)
        y = self._like_x()
        if self._empty:
            return (y,)
        read = _adjacent(given.x)
        x, weight = read.data_ptr(), given.weight.data_ptr()
        fits, in_piece = not x % self._pack_bytes, not weight % PIECE_BYTES
        launch, _ = self._launch("convolve", fits, in_piece, self.x)
        launch((x, weight, address(given.bias), y.data_ptr()))
        return (y,)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of x, weight and bias."""
        given: ConvOperands[Any] = ConvOperands(*operands)
        dx = self._like_x()
        if self._empty:
            of_bias = None if given.bias is None else torch.zeros_like(given.bias)
            return dx, torch.zeros_like(given.weight), of_bias
        (dy,) = gradients
        assert dy is not None
        x, dy = _adjacent(given.x), _adjacent(dy)
        weight = given.weight.data_ptr()
        at_x, at_dy = x.data_ptr(), dy.data_ptr()
        fits, in_piece = not (at_x | at_dy) % self._pack_bytes, not weight % PIECE_BYTES
        launch, runs = self._launch("correlate", fits, in_piece, self.x, layout_of(dy))
        _, rows, _, channels = self._sizes
        taps = self._width * channels
        size = taps if given.bias is None else taps + channels
        partial = torch.empty(
            *self._replicas, rows * runs, size, dtype=self._real, device=self._device
        )
        read = (at_x, at_dy, weight, address(given.bias))
        launch((*read, dx.data_ptr(), partial.data_ptr()))
        total = partial.sum(-2)  # Of weight and bias, whose gradients then share their memory.
        dweight = total[..., :taps].unflatten(-1, (channels, self._width)).to(given.weight.dtype)
        dbias = None if given.bias is None else total[..., taps:].to(given.bias.dtype)
        return dx, dweight, dbias


#: What a kernel writes; its argument has that last.
_OUTPUTS = {"convolve": ("y",), "correlate": ("dx", "partial")}


def fits_in_piece(x: Layout) -> bool:
    """Whether the numbers of a channel may move at once, if those of the first may."""
    count = x.shape[-1]
    several = count in (2, 4, 8) and count * x.dtype.itemsize <= PIECE_BYTES
    return several and x.in_packs(count)


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[bool, ...]) -> CudaConv:
    """The convolutions of operands with this signature, and with SiLU or without."""
    given: Any = ConvOperands(*layouts_of(signature))
    return CudaConv(given, *options)
