"""One step of the recurrence on an NVIDIA GPU, as in decoding."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_header import STORED_TYPES, header_text
from keelback.compiled.cuda_launch import ByPieces, ShortLaunch
from keelback.compiled.cuda_operands import PIECE_BYTES, addresses
from keelback.compiled.layouts import Blank, Layout, row_major
from keelback.compiled.state_packs import ENOUGH_THREADS, LARGEST, MOST_ROWS, packs_of
from keelback.scan._operands import Operands
from keelback.scan.cuda.configuration import WARP
from keelback.scan.cuda.plan import MAX_STATES

THREADS = 128
#: The state, u, delta, A, B, C, D, z, delta_bias, the new state and y.
_TENSORS = 11


@dataclass(frozen=True)
class StepConfiguration:
    """The constants that the kernel is compiled with.

    A channel's states lie with `lanes` threads, which move `vector` of them at once; a thread takes
    `rows` rows. States are kept, and D and delta_bias given, in dtypes of their own.
    """

    sources: ClassVar[str] = "keelback.scan.cuda"

    dtype: torch.dtype
    kept: torch.dtype
    skip: torch.dtype
    bias: torch.dtype
    states: int
    vector: int
    lanes: int
    rows: int
    softplus: bool
    has_d: bool
    has_z: bool
    has_bias: bool
    grouped: bool

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {"Kept": self.kept, "Skip": self.skip, "Bias": self.bias}
        integers = {
            "kStates": self.states,
            "kVector": self.vector,
            "kLanes": self.lanes,
            "kRows": self.rows,
            "kThreads": THREADS,
        }
        flags = {
            "kSoftplus": self.softplus,
            "kHasD": self.has_d,
            "kHasZ": self.has_z,
            "kHasBias": self.has_bias,
            "kGrouped": self.grouped,
        }
        return header_text(self.dtype, types, integers, flags)


class CudaStep:
    """The steps of one signature."""

    def __init__(self, given: Operands[Layout], softplus: bool, in_place: bool) -> None:
        u, state = given.u, given.initial_state
        assert state is not None
        self._given, self._softplus, self._in_place = given, softplus, in_place
        self._kept = state.dtype if in_place else _real(u.dtype)
        self._converts = state.dtype != self._kept
        self._before = state.in_row_major_order() if self._converts else state
        self._after = Blank(state.shape, self._kept, u.device)
        self._y = Blank(u.shape, u.dtype, u.device)
        self._empty = 0 in u.shape
        self._launch = ByPieces(self._made)

    def advance(self, operands: Operands[Tensor]) -> tuple[Tensor, Tensor]:
        """Output and new state; in place, that is the state itself, overwritten."""
        state: Any = operands.initial_state
        before = state
        if self._converts:
            before = state.to(self._kept, memory_format=torch.contiguous_format)
        y, after = self._y(), state if self._in_place else self._after()
        if self._empty:
            return y, after
        places = addresses((before, *operands[:8], after, y))
        self._launch(places, places[0] | places[3] | places[4] | places[5])
        if self._in_place:
            torch.autograd.graph.increment_version(state)
        return y, after

    def _made(self, aligned: bool) -> ShortLaunch:
        """For a state, A, B and C that begin where a piece may, or for others."""
        u, _, A, B, C, D, z, delta_bias = self._given[:8]
        real, before = _real(u.dtype), self._before
        rows, channels, states = before.shape
        groups = B.shape[1]
        most = PIECE_BYTES // real.itemsize if aligned else 1
        vector, lanes = packs_of((before, A, B, C), states, most)
        seats = channels * lanes
        taken = MOST_ROWS if states <= lanes * vector else 1
        while taken > 1 and rows * seats < taken * ENOUGH_THREADS * processors_of(u.device):
            taken //= 2
        configuration = StepConfiguration(
            dtype=u.dtype,
            kept=self._kept,
            skip=D.dtype if D else real,
            bias=delta_bias.dtype if delta_bias else real,
            states=states,
            vector=vector,
            lanes=lanes,
            rows=taken,
            softplus=self._softplus,
            has_d=D is not None,
            has_z=z is not None,
            has_bias=delta_bias is not None,
            grouped=groups > 1,
        )
        blocks = -(-seats * -(-rows // taken) // THREADS)
        sizes = (rows, channels, channels // groups, *self.strides)
        return ShortLaunch("step", configuration, u.device.index, blocks, THREADS, _TENSORS, sizes)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of all tensors but the output, as `StepArguments` has them; zeros for absent ones."""
        u, delta, A, B, C, D, z, delta_bias = self._given[:8]
        before = self._before.stride
        return (
            *before,
            *u.stride,
            *_along_channels(delta),
            *A.stride,
            *B.stride,
            *C.stride,
            *(D.stride if D else (0,)),
            *(z.stride if z else (0, 0)),
            *(delta_bias.stride if delta_bias else (0,)),
            *(before if self._in_place else row_major(self._after.shape)),
        )


def prepare_step(given: Operands[Layout], softplus: bool, in_place: bool) -> CudaStep | None:
    """The steps over operands like these, if the kernel takes them.

    It takes u, delta, B, C and z of one dtype, A in float32 or, where that is float64, in it, and
    the others in either. In place, no two elements of the state may be one.
    """
    u, state = given.u, given.initial_state
    assert state is not None
    real = _real(u.dtype)
    present = [x for x in given.differentiable if x is not None]
    if u.dtype not in STORED_TYPES or any(x.device != u.device for x in present):
        return None
    if any(x.dtype != u.dtype for x in (given.delta, given.B, given.C, given.z) if x):
        return None
    if given.A.dtype != real:
        return None
    if any(x.dtype not in (u.dtype, real) for x in (state, given.D, given.delta_bias) if x):
        return None
    if in_place and state.repeats:
        return None  # PyTorch says so.
    rows, channels, states = state.shape
    if not 1 <= states <= MAX_STATES:
        return None
    step = CudaStep(given, softplus, in_place)
    most_threads = WARP * (rows * channels + THREADS)
    return None if max(most_threads, *step.strides) > LARGEST else step


def _real(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _along_channels(delta: Layout) -> tuple[int, int]:
    """Strides of the step sizes, where one for all channels is read again for each."""
    row, channel = delta.stride
    return row, channel if delta.shape[1] > 1 else 0
