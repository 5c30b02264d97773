"""The gradients of the scan on an NVIDIA GPU: their buffers and launches."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keelback.compiled.cuda_launch import Field, Launch
from keelback.compiled.cuda_operands import Room, addresses, all_strides, outer_strides
from keelback.compiled.layouts import Blank, Layout, row_major
from keelback.scan._operands import Operands
from keelback.scan.cuda.forward import OF_B, OF_RESET, OF_U
from keelback.scan.cuda.plan import CudaPlan
from keelback.scan.cuda.signature import Addresses, CudaSignature

#: Elements at whose multiples the tensors of one allocation begin.
_ALIGNED = 64


class Sweep(NamedTuple):
    """What the first half of a backward pass leaves: tile states, and what its spans pass on.

    `scratch` holds both; the addresses there are of tile states, which are in `du` where they fit,
    and of what is `passed`: states and adjoints (sequence, span, channel, state) and totals
    (sequence, span, channel), 0 where one span is all, and where spans write letters. `sums` are
    for the gradients of B, C and the parameters.
    """

    dy: Tensor
    du: Tensor
    ddelta: Tensor
    scratch: Tensor | None
    tile_states: int
    passed: list[int]
    reversing: "_Reversing"
    sums: tuple[Tensor, Tensor, Tensor]


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
        spans = (sizes.sequences, plan.spans, sizes.channels)
        self._rows, kept = _tile_state_rows(plan, u)
        room, width = Room(), A.dtype.itemsize
        self._tile_states = room.take(kept, u.dtype.itemsize) if kept else None
        self._passed: list[int] = []
        if in_spans or (self._spanned and not letters_fit(plan, u.dtype)):
            numbers = math.prod(spans)
            of_passed = (numbers * sizes.states, numbers * sizes.states, numbers)
            self._passed = [room.take(count, width) for count in of_passed]
        self._scratch = Blank((room.bytes,), torch.uint8, scan.device) if room.bytes else None
        self._spans = spans
        self._reversing: dict[bool, _Reversing] = {}

    def sweep(self, at: Addresses, dy: Tensor) -> Sweep:
        """The recurrence without its output, of operands that lie there; sweep.cu says more."""
        du, ddelta = self._scan.like_u(), self._scan.like_u()
        scratch = None if self._scratch is None else self._scratch()
        begin = 0 if scratch is None else scratch.data_ptr()
        tile_states = du.data_ptr() if self._tile_states is None else begin + self._tile_states
        passed = [begin + offset for offset in self._passed] or [0, 0, 0]
        reversing = self._reverse_pass()
        sums = reversing.sums()
        u, delta, A, B, C, _, z, bias, initial, reset = at
        used = (u, delta, z, dy.data_ptr(), B, C, reset, A, bias, initial)
        of_sums = [x.data_ptr() for x in sums]
        launch = self._sweep_launch(reversing)
        launch((*used, tile_states, ddelta.data_ptr(), *passed, *of_sums))
        return Sweep(dy, du, ddelta, scratch, tile_states, passed, reversing, sums)

    def adjoints(self, swept: Sweep) -> tuple[Tensor, Tensor]:
        """Those of a sweep, and the sums of step sizes, where its spans pass them on in tensors."""
        dtype, (_, adjoints, totals) = self._scan.given.A.dtype, self._passed
        scratch = swept.scratch
        assert scratch is not None

        def numbers(begin: int, *shape: int) -> Tensor:
            return (
                scratch[begin : begin + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            )

        of_states = numbers(adjoints, *self._spans, self._scan.sizes.states)
        return of_states, numbers(totals, *self._spans)

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
            "reset": all_strides(given.reset, OF_RESET),
        }

    @property
    def _kept(self) -> dict[str, Field]:
        """Tile states, and the time since a span's start at the start of each tile."""
        return {"tile_states": self._rows, "elapsed": (self._scan.sizes.length, 0)}

    def _sweep_launch(self, reversing: "_Reversing") -> Launch:
        if reversing.sweep is None:
            configuration = self.plan.configuration.for_sweeping(self._spanned)
            fields: dict[str, Field] = {
                **self._inputs(),
                **dict.fromkeys(("A", "bias", "initial"), ()),
                **self._kept,
                **dict.fromkeys(("states", "adjoints", "totals"), ()),
                **dict.fromkeys(("dB", "dC", "parameters"), ()),
                "grouped": reversing.cleared_grouped,
                "of_parameters": reversing.cleared_parameters,
            }
            reversing.sweep = self._launch("sweep", configuration, fields)
        return reversing.sweep

    def _launch(self, name: str, configuration: Any, fields: dict[str, Field]) -> Launch:
        plan, device = self.plan, self._scan.device
        threads = configuration.threads
        return Launch(name, configuration, device.index, plan.blocks, threads, plan.numbers, fields)

    def reverse(
        self, at: Addresses, swept: Sweep, last_gradient: Tensor | None
    ) -> Operands[Tensor]:
        """The gradients, by a pass backward from tile to tile; reverse.cu says more.

        Once for each sweep, which clears the sums that are added to here.
        """
        reversing, given, ddelta = swept.reversing, self._scan.given, swept.ddelta
        dz = None if given.z is None else self._scan.like_u()
        dinitial = None if given.initial_state is None else self._scan.like_state()
        dB, dC, parameters = swept.sums
        u, delta, A, B, C, D, z, bias, initial, reset = at
        used = (u, delta, z, swept.dy.data_ptr(), B, C, reset, A, D, bias, initial)
        passed = (*swept.passed, swept.tile_states)
        last, *found, first = addresses(
            (last_gradient, ddelta, swept.du, ddelta, dz, dB, dC, dinitial)
        )
        of_parameters = reversing.places(parameters)
        self._reverse_launch(reversing)((*used, last, *passed, *found, *of_parameters, first))
        if reversing.deterministic:
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

    def _reverse_pass(self) -> "_Reversing":
        """As PyTorch's setting for deterministic algorithms has it now."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        if deterministic not in self._reversing:
            self._reversing[deterministic] = _Reversing(self._scan, self.plan, deterministic)
        return self._reversing[deterministic]

    def _reverse_launch(self, reversing: "_Reversing") -> Launch:
        if reversing.reverse is None:
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
            reversing.reverse = self._launch("reverse", configuration, fields)
        return reversing.reverse


class _Reversing:
    """The sums of a reverse pass, in parts where they must be the same at each call.

    The gradients of A, D and delta_bias are one allocation: they live as long as each other.
    """

    sweep: Launch | None = None
    reverse: Launch | None = None

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
        for piece in ((*per_part, sizes.states), per_part, per_part):
            self._pieces.append((piece, row_major(piece), end))
            end += -(-math.prod(piece) // _ALIGNED) * _ALIGNED
        self._parameters = Blank((end,), given.A.dtype, scan.device)
        #: Numbers that are added to, and therefore begin with zero.
        self.cleared_grouped = math.prod(shape) if self.add_grouped else 0
        self.cleared_parameters = 0 if deterministic else end
        self._places = [begin * given.A.dtype.itemsize for _, _, begin in self._pieces]

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Memory for the gradients of B, C and the parameters; the sweep clears it."""
        return self._grouped(), self._grouped(), self._parameters()

    def places(self, parameters: Tensor) -> list[int]:
        """Where the gradients of A, D and delta_bias lie."""
        start = parameters.data_ptr()
        return [start + place for place in self._places]

    def gradient(self, index: int, parameters: Tensor) -> Tensor:
        """That of A, D or delta_bias."""
        found = torch.as_strided(parameters, *self._pieces[index])
        return found.sum(-2 if index else -3) if self.deterministic else found


def _tile_state_rows(plan: CudaPlan, u: Layout) -> tuple[tuple[int, int], int]:
    """The states at the starts of tiles: in `du` where they fit, else in scratch of their own.

    The numbers are rows of a sequence, and rows from one tile to the next (or 0), see
    tile_states.cuh; and how many numbers scratch has, or 0.
    """
    sizes, rows = plan.sizes, _rows_of_states(plan, u.dtype)
    if rows <= plan.configuration.tile:
        return (sizes.length, 0), 0
    of_sequence = plan.spans * plan.tiles_per_span * rows
    return (of_sequence, rows), sizes.sequences * of_sequence * sizes.channels


def letters_fit(plan: CudaPlan, dtype: torch.dtype) -> bool:
    """Whether what the spans pass on fits into their last tiles of `du`; letters.cuh says more."""
    tile, rows = plan.configuration.tile, _rows_of_states(plan, dtype)
    last_span = plan.sizes.length - (plan.spans - 1) * plan.span_length
    whole = rows == plan.sizes.states and last_span >= tile
    return whole and rows + (plan.spans - 1) * (rows + 1) <= tile


def _rows_of_states(plan: CudaPlan, dtype: torch.dtype) -> int:
    return plan.sizes.states * (1 if dtype == torch.float64 else 4 // dtype.itemsize)
