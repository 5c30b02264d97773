"""The gradients of the scan on an NVIDIA GPU: their buffers and launches."""

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keelback.compiled.cuda_launch import Field, Launch
from keelback.compiled.cuda_operands import addresses, outer_strides
from keelback.compiled.layouts import Blank, Layout, row_major
from keelback.scan._operands import Operands
from keelback.scan.cuda.forward import OF_B, OF_U, reset_strides
from keelback.scan.cuda.plan import CudaPlan
from keelback.scan.cuda.signature import Addresses, CudaSignature

#: Elements at whose multiples the tensors of one allocation begin.
_ALIGNED = 64


class Sweep(NamedTuple):
    """What the first half of a backward pass leaves: tile states, and what its spans pass on.

    `states`, `adjoints` (sequence, span, channel, state) and `totals` (sequence, span, channel) are
    absent where one span is all, and where spans write letters. Tile states are in `du` where there
    is no buffer for them.
    """

    dy: Tensor
    du: Tensor
    ddelta: Tensor
    buffer: Tensor | None
    states: Tensor | None
    adjoints: Tensor | None
    totals: Tensor | None

    @property
    def tile_states(self) -> Tensor:
        """Where the states at the starts of tiles are."""
        return self.du if self.buffer is None else self.buffer


class BackwardPass:
    """The backward pass over operands of one signature, cut by one plan.

    `in_spans` has what the spans pass on in tensors, even of one that is a single span, which then
    begins without the initial state.
    """

    def __init__(
        self, scan: CudaSignature, plan: CudaPlan, dy: Layout, *, in_spans: bool = False
    ) -> None:
        self.plan, self._scan, self._dy = plan, scan, dy
        sizes, A, u = scan.sizes, scan.given.A, scan.given.u
        self._spanned = in_spans or plan.spans > 1
        self._passes_tensors = in_spans or (self._spanned and not letters_fit(plan, u.dtype))
        spans = (sizes.sequences, plan.spans, sizes.channels)
        self._states = Blank((*spans, sizes.states), A.dtype, scan.device)
        self._totals = Blank(spans, A.dtype, scan.device)
        self._rows, self._buffer = _tile_state_rows(plan, u)
        self._reversing: dict[bool, _Reversing] = {}

    def sweep(self, at: Addresses, dy: Tensor) -> Sweep:
        """The recurrence without its output, of operands that lie there; sweep.cu says more."""
        like_u, passes = self._scan.like_u, self._passes_tensors
        swept = Sweep(
            dy=dy,
            du=like_u(),
            ddelta=like_u(),
            buffer=None if self._buffer is None else self._buffer(),
            states=self._states() if passes else None,
            adjoints=self._states() if passes else None,
            totals=self._totals() if passes else None,
        )
        u, delta, A, B, C, _, z, bias, initial, reset = at
        used = (u, delta, z, dy.data_ptr(), B, C, reset, A, bias, initial)
        kept = (swept.tile_states, swept.ddelta, swept.states, swept.adjoints, swept.totals)
        self._sweeping((*used, *addresses(kept)))
        return swept

    def _inputs(self) -> dict[str, Field]:
        """What both kernels begin with."""
        given = self._scan.given
        return {
            "u": outer_strides(given.u, OF_U),
            "delta": outer_strides(given.delta, OF_U),
            "z": outer_strides(given.z, OF_U),
            "dy": outer_strides(self._dy, OF_U),
            "B": outer_strides(given.B, OF_B),
            "C": outer_strides(given.C, OF_B),
            "reset": reset_strides(given),
        }

    @property
    def _kept(self) -> dict[str, Field]:
        """Tile states, and the time since a span's start at the start of each tile."""
        return {"tile_states": self._rows, "elapsed": (self._scan.sizes.length, 0)}

    @cached_property
    def _sweeping(self) -> Launch:
        configuration = self.plan.configuration.for_sweeping(self._spanned)
        fields = {
            **self._inputs(),
            **dict.fromkeys(("A", "bias", "initial"), ()),
            **self._kept,
            **dict.fromkeys(("states", "adjoints", "totals"), ()),
        }
        return self._launch("sweep", configuration, fields)

    def _launch(self, name: str, configuration: Any, fields: dict[str, Field]) -> Launch:
        plan, device = self.plan, self._scan.device
        threads = configuration.threads
        return Launch(name, configuration, device.index, plan.blocks, threads, plan.numbers, fields)

    def reverse(
        self, at: Addresses, swept: Sweep, last_gradient: Tensor | None
    ) -> Operands[Tensor]:
        """The gradients, by a pass backward from tile to tile; reverse.cu says more."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        if deterministic not in self._reversing:
            self._reversing[deterministic] = _Reversing(self._scan, self.plan, deterministic)
        reversing, given, ddelta = self._reversing[deterministic], self._scan.given, swept.ddelta
        dz = None if given.z is None else self._scan.like_u()
        dinitial = None if given.initial_state is None else self._scan.like_state()
        dB, dC, parameters = reversing.sums()
        u, delta, A, B, C, D, z, bias, initial, reset = at
        passed = (last_gradient, swept.states, swept.adjoints, swept.totals, swept.tile_states)
        found = addresses((*passed, ddelta, swept.du, ddelta, dz, dB, dC, dinitial))
        used = (u, delta, z, swept.dy.data_ptr(), B, C, reset, A, D, bias, initial)
        of_parameters = reversing.places(parameters)
        self._reverse_launch(reversing)((*used, *found[:-1], *of_parameters, found[-1]))
        if deterministic:
            dB, dC = dB.sum(0), dC.sum(0)
        if not reversing.narrow:
            dB, dC = dB.to(given.B.dtype), dC.to(given.C.dtype)
        return Operands(
            u=swept.du,
            delta=ddelta.sum(-1, keepdim=True) if given.shares_delta else ddelta,
            A=reversing.gradient(0, parameters),
            B=dB,
            C=dC,
            D=None if given.D is None else reversing.gradient(1, parameters),
            z=dz,
            delta_bias=None if given.delta_bias is None else reversing.gradient(2, parameters),
            initial_state=dinitial,
        )

    def _reverse_launch(self, reversing: "_Reversing") -> Launch:
        if reversing.launch is None:
            configuration = self.plan.configuration.for_reversing(
                self._spanned,
                reversing.add_grouped,
                reversing.narrow,
                not reversing.deterministic,
            )
            fields: dict[str, Field] = {
                **self._inputs(),
                **dict.fromkeys(("A", "D", "bias", "initial", "final"), ()),
                **dict.fromkeys(("states", "adjoints", "totals"), ()),
                **self._kept,
                **dict.fromkeys(("du", "ddelta", "dz", "dB", "dC"), ()),
                "partial": reversing.partial,
                **dict.fromkeys(("dA", "dD", "dbias", "dinitial"), ()),
            }
            reversing.launch = self._launch("reverse", configuration, fields)
        return reversing.launch


class _Reversing:
    """The sums of a reverse pass, in parts where they must be the same at each call.

    The gradients of A, D and delta_bias are one allocation: they live as long as each other.
    """

    launch: Launch | None = None

    def __init__(self, scan: CudaSignature, plan: CudaPlan, deterministic: bool) -> None:
        sizes, given = scan.sizes, scan.given
        self.deterministic = deterministic
        parts = plan.blocks_per_group if deterministic else 1
        self.narrow = plan.blocks_per_group == 1
        self.add_grouped = plan.blocks_per_group > parts
        of_B = given.B.dtype if self.narrow else given.A.dtype
        shape = (parts, *given.B.shape) if deterministic else given.B.shape
        self._grouped = Blank(shape, of_B, scan.device)
        self.partial = 0 if parts == 1 else math.prod(given.B.shape)
        if deterministic:
            per_part: tuple[int, ...] = (
                *given.A.shape[:-2],
                sizes.rows * plan.spans,
                sizes.channels,
            )
        else:
            per_part = tuple(given.A.shape[:-1])
        self._pieces, end = [], 0
        for shape in ((*per_part, sizes.states), per_part, per_part):
            self._pieces.append((shape, row_major(shape), end))
            end += -(-math.prod(shape) // _ALIGNED) * _ALIGNED
        self._parameters = Blank((end,), given.A.dtype, scan.device)
        self._places = [begin * given.A.dtype.itemsize for _, _, begin in self._pieces]

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Memory for the gradients of B, C and the parameters; zero where they are added to."""
        dB, dC, parameters = self._grouped(), self._grouped(), self._parameters()
        added = [dB, dC] if self.add_grouped else []
        if not self.deterministic:
            added.append(parameters)
        if added:
            torch._foreach_zero_(added)
        return dB, dC, parameters

    def places(self, parameters: Tensor) -> list[int]:
        """Where the gradients of A, D and delta_bias lie."""
        start = parameters.data_ptr()
        return [start + place for place in self._places]

    def gradient(self, index: int, parameters: Tensor) -> Tensor:
        """That of A, D or delta_bias."""
        found = torch.as_strided(parameters, *self._pieces[index])
        return found.sum(-2 if index else -3) if self.deterministic else found


def _tile_state_rows(plan: CudaPlan, u: Layout) -> tuple[tuple[int, int], Blank | None]:
    """The states at the starts of tiles: in `du` where they fit, else in a buffer of their own.

    The numbers are rows of a sequence, and rows from one tile to the next (or 0), see
    tile_states.cuh.
    """
    sizes, rows = plan.sizes, _rows_of_states(plan, u.dtype)
    if rows <= plan.configuration.tile:
        return (sizes.length, 0), None
    of_sequence = plan.spans * plan.tiles_per_span * rows
    shape = (sizes.sequences, of_sequence, sizes.channels)
    return (of_sequence, rows), Blank(shape, u.dtype, u.device)


def letters_fit(plan: CudaPlan, dtype: torch.dtype) -> bool:
    """Whether what the spans pass on fits into their last tiles of `du`; letters.cuh says more."""
    tile, rows = plan.configuration.tile, _rows_of_states(plan, dtype)
    last_span = plan.sizes.length - (plan.spans - 1) * plan.span_length
    whole = rows == plan.sizes.states and last_span >= tile
    return whole and rows + (plan.spans - 1) * (rows + 1) <= tile


def _rows_of_states(plan: CudaPlan, dtype: torch.dtype) -> int:
    return plan.sizes.states * (1 if dtype == torch.float64 else 4 // dtype.itemsize)
