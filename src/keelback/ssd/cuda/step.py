"""A step of the scan by heads on an NVIDIA GPU, by one kernel."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled.checks import HALF
from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_header import header_text
from keelback.compiled.cuda_launch import ByPieces, ShortLaunch
from keelback.compiled.cuda_operands import PIECE_BYTES, addresses
from keelback.compiled.layouts import Blank, Layout
from keelback.compiled.state_packs import ENOUGH_THREADS, LARGEST, MOST_ROWS, WARP, packs_of
from keelback.ssd._operands import Operands, Options

THREADS = 64
WIDEST = 256
"""States for which there is a kernel."""


@dataclass(frozen=True)
class StepConfiguration:
    """For `step.cu`.

    The states of a number lie with `lanes` threads, which move `vector` of them at once; a thread
    takes `rows` numbers of a head.
    """

    sources: ClassVar[str] = "keelback.ssd.cuda"

    dtype: torch.dtype
    types: tuple[tuple[str, torch.dtype], ...]
    head_dim: int
    states: int
    vector: int
    lanes: int
    rows: int
    threads: int
    softplus: bool
    has_d: bool
    has_z: bool
    has_bias: bool
    grouped: bool

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {
            "kHeadDim": self.head_dim,
            "kStates": self.states,
            "kVector": self.vector,
            "kLanes": self.lanes,
            "kRows": self.rows,
            "kThreads": self.threads,
        }
        flags = {
            "kSoftplus": self.softplus,
            "kHasD": self.has_d,
            "kHasZ": self.has_z,
            "kHasBias": self.has_bias,
            "kGrouped": self.grouped,
        }
        return header_text(self.dtype, dict(self.types), integers, flags)


class CudaStep:
    """Steps of one signature, which have no gradients."""

    def __init__(self, given: Operands[Layout], options: Options, in_place: bool) -> None:
        self._given, self._options, self._in_place = given, options, in_place
        x, before = given.x, _states_of(given)
        self._y = Blank(x.shape, x.dtype, x.device)
        self._states = Blank(before.shape, torch.float32, x.device)
        self._launch = ByPieces(self._made)
        self._after = before
        if not in_place:
            self._after = before.in_row_major_order()._replace(dtype=torch.float32)

    def forward(self, operands: Operands[Any]) -> tuple[Tensor, Tensor]:
        """Output and new states; in place, those are the states themselves."""
        x, dt, A, B, C, D, z, bias, before, _ = operands
        assert before is not None
        after: Tensor = before if self._in_place else self._states()
        y = self._y()
        places = addresses((before, x, dt, A, B, C, D, z, bias, after, y))
        self._launch(places, places[0] | places[4] | places[5] | places[9])
        if self._in_place:
            torch.autograd.graph.increment_version(before)
        return y, after

    def _made(self, aligned: bool) -> ShortLaunch:
        """For operands that all begin where a piece may, or for others."""
        given, before, after = self._given, _states_of(self._given), self._after
        x, dt, A, B, C, D, z, bias = given[:8]
        batch, heads, head_dim, states = before.shape
        widest = max(one.dtype.itemsize for one in (before, after, B, C))
        most = PIECE_BYTES // widest if aligned else 1
        vector, lanes = packs_of((before, after, B, C), states, most)
        rows = max(1, MOST_ROWS // -(-states // (lanes * vector)))
        threads = batch * heads * head_dim * lanes
        while rows > 1 and threads < rows * ENOUGH_THREADS * processors_of(x.device):
            rows //= 2
        seats = batch * heads * -(-head_dim // rows)
        types = {
            "Before": before.dtype,
            "After": after.dtype,
            "StoredStep": dt.dtype,
            "StoredRate": A.dtype,
            "StoredSkip": D.dtype if D else x.dtype,
            "StoredBias": bias.dtype if bias else x.dtype,
        }
        softplus, *limits = self._options
        configuration = StepConfiguration(
            dtype=x.dtype,
            types=tuple(types.items()),
            head_dim=head_dim,
            states=states,
            vector=vector,
            lanes=lanes,
            rows=rows,
            threads=THREADS,
            softplus=softplus,
            has_d=D is not None,
            has_z=z is not None,
            has_bias=bias is not None,
            grouped=B.shape[1] > 1,
        )
        integers = (seats, heads, heads // B.shape[1], *_strides(given, after))
        blocks, addresses = -(-seats * lanes // THREADS), 11
        device = x.device.index
        return ShortLaunch(
            "step", configuration, device, blocks, THREADS, addresses, integers, limits
        )


def prepare_step(given: Operands[Layout], options: Options, in_place: bool) -> CudaStep | None:
    """The step over operands of this signature, if the kernel takes them.

    It takes half precision and float32 in any mixture, but for x, B, C and z, which share a dtype,
    and up to 256 states. In place, no two elements of the states may be one.
    """
    x, states = given.x, given.initial_states
    floating = [one for one in given.differentiable if one is not None]
    if states is None or any(one.dtype not in (*HALF, torch.float32) for one in floating):
        return None
    if any(one.dtype != x.dtype for one in (given.B, given.C, given.z) if one is not None):
        return None
    if not all(size for one in floating for size in one.shape) or states.shape[-1] > WIDEST:
        return None
    if in_place and states.repeats:
        return None
    threads = WARP * (states.shape.numel() // states.shape[-1] + THREADS)
    if max(threads, *_strides(given, states)) > LARGEST:
        return None
    return CudaStep(given, options, in_place)


def _strides(given: Operands[Layout], after: Layout) -> tuple[int, ...]:
    """As `StepArguments` has them; zeros for what is absent."""
    x, dt, A, B, C, D, z, bias = given[:8]
    of_d = (0, 0) if D is None else (*D.stride, 0)[:2]
    return (
        *_states_of(given).stride,
        *x.stride,
        *dt.stride,
        *A.stride,
        *B.stride,
        *C.stride,
        *of_d,
        *(z.stride if z else (0, 0, 0)),
        *(bias.stride if bias else (0,)),
        *after.stride,
    )


def _states_of(given: Operands[Layout]) -> Layout:
    assert given.initial_states is not None
    return given.initial_states
