"""One step of the recurrence on an NVIDIA GPU, as in decoding."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_header import STORED_TYPES, header_text
from keelback.compiled.cuda_launch import ShortLaunch
from keelback.compiled.cuda_operands import PIECE_BYTES, addresses
from keelback.compiled.layouts import Layout, Signature, layouts_of, signature_of
from keelback.compiled.state_packs import ENOUGH_THREADS, LARGEST, MOST_ROWS, packs_of
from keelback.scan._operands import Operands, require_step
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


def advance_state(
    operands: Operands[Tensor], softplus: bool, in_place: bool
) -> tuple[Tensor, Tensor] | None:
    """Output and new state of `selective_scan_step`; in place, that is the state itself.

    None where that is PyTorch's to do: other dtypes, or several elements of the state being one.

    Raises:
        InputError: An operand has the wrong shape.
    """
    state, u = operands.initial_state, operands.u
    assert state is not None
    new_state = state
    if not in_place:
        real = _real(u.dtype)
        state = state.to(real) if state.dtype == u.dtype else state
        new_state = torch.empty(state.shape, dtype=real, device=state.device)
    given = (state, *operands[:8], new_state)
    places = addresses(given)
    aligned = not (places[0] | places[3] | places[4] | places[5]) % PIECE_BYTES
    launch = _planned(signature_of(given), softplus, aligned)
    if launch is None:
        return None
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    if y.numel():
        launch((*places, y.data_ptr()))
        if in_place:
            torch.autograd.graph.increment_version(state)
    return y, new_state


@lru_cache(maxsize=1024)
def _planned(signature: Signature, softplus: bool, aligned: bool) -> ShortLaunch | None:
    """How the kernel takes operands like these, and a new state, if it does."""
    given: Any = layouts_of(signature)
    *given, new_state = given
    state, u, delta, A, B, C, D, z, delta_bias = given
    real = _real(u.dtype)
    if any(x.device != state.device for x in given if x) or u.dtype not in STORED_TYPES:
        return None
    if any(x.dtype != u.dtype for x in (delta, B, C, z) if x) or A.dtype != real:
        return None
    if any(x.dtype not in (u.dtype, real) for x in (state, D, delta_bias) if x):
        return None
    if new_state.repeats:
        return None  # Several of its elements are one; PyTorch says so.
    require_step(Operands(u, delta, A, B, C, D, z, delta_bias, state))
    rows, channels, states = state.shape
    groups = B.shape[1]
    most = PIECE_BYTES // real.itemsize if aligned else 1
    vector, lanes = packs_of((state, A, B, C), states, most)
    seats = channels * lanes
    taken = MOST_ROWS if states <= lanes * vector else 1
    while taken > 1 and rows * seats < taken * ENOUGH_THREADS * processors_of(u.device):
        taken //= 2
    blocks = -(-seats * -(-rows // taken) // THREADS)
    if not 1 <= states <= MAX_STATES or blocks * THREADS > LARGEST:
        return None
    configuration = StepConfiguration(
        dtype=u.dtype,
        kept=state.dtype,
        skip=D.dtype if D else real,
        bias=delta_bias.dtype if delta_bias else real,
        states=states,
        vector=vector,
        lanes=lanes,
        rows=taken,
        softplus=softplus,
        has_d=D is not None,
        has_z=z is not None,
        has_bias=delta_bias is not None,
        grouped=groups > 1,
    )
    sizes = (
        *(rows, channels, channels // groups),
        *state.stride,
        *u.stride,
        *_along_channels(delta),
        *A.stride,
        *B.stride,
        *C.stride,
        *(D.stride if D else (0,)),
        *(z.stride if z else (0, 0)),
        *(delta_bias.stride if delta_bias else (0,)),
        *new_state.stride,
    )
    if max(sizes) > LARGEST:
        return None
    return ShortLaunch("step", configuration, u.device.index, blocks, THREADS, _TENSORS, sizes)


def _real(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _along_channels(delta: Layout) -> tuple[int, int]:
    """Strides of the step sizes, where one for all channels is read again for each."""
    row, channel = delta.stride
    return row, channel if delta.shape[1] > 1 else 0
