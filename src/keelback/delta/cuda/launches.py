"""The launches of a delta rule's kernels, with all but its tensors' addresses worked out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from keelback.compiled.cuda_launch import BoxMap, Field, Launch, box_map
from keelback.compiled.cuda_operands import Room, bits_of_floats, strides_of
from keelback.compiled.layouts import Blank, Layout, row_major
from keelback.delta._operands import DeltaSizes, Operands
from keelback.delta.cuda.plan import Plan


@dataclass(frozen=True)
class Parts:
    """Where the parts of chunks lie in a room: their offsets."""

    steps: int
    numbers: int  # these four with a decay per key channel
    entered_q: int
    left_k: int
    entered_k: int
    solver: int
    weights: int
    inverse: int
    written: int
    states: int
    adjoints: int
    solved: int
    between: int  # states between segments

    @classmethod
    def in_room(cls, room: Room, sizes: DeltaSizes, plan: Plan, gradients: bool) -> "Parts":
        """Those of a forward pass, or of a pass for gradients."""
        tiles = plan.tiles
        chunks = sizes.batch * sizes.heads * -(-sizes.length // tiles.chunk)
        width, chunk = tiles.dtype.itemsize, tiles.chunk
        only = chunks if gradients else 0
        square = chunk * chunk
        keys = chunks * chunk * tiles.key if tiles.by_channel else 0
        # Where there are gradients of states, solvers are not needed any more.
        adjoints = room.take(only * max(tiles.key * tiles.values, square), width)
        return cls(
            steps=room.take(chunks * tiles.step_bytes, 1),
            numbers=room.take(chunks * tiles.number_bytes if keys else 0, 1),
            entered_q=room.take(keys, width),
            left_k=room.take(keys, width),
            entered_k=room.take(keys, width),
            solver=adjoints if gradients else room.take(chunks * square, width),
            weights=room.take(chunks * square, width),
            inverse=room.take(only * square, width),
            written=room.take(only * chunk * tiles.values, width),
            states=room.take(only * tiles.key * tiles.values, width),
            adjoints=adjoints,
            solved=room.take(only * chunk * tiles.values, width),
            between=room.take(sizes.batch * sizes.heads * sizes.key * sizes.value if only else 0),
        )

    def found(self, by_channel: bool) -> tuple[int, ...]:
        """What is kept of all chunks before the states are known."""
        keys = (self.numbers, self.entered_q, self.left_k, self.entered_k) if by_channel else ()
        return (self.steps, *keys, self.solver, self.weights, self.inverse)

    def keys(self, by_channel: bool, q: int, k: int) -> tuple[int, ...]:
        """`Keys` of walks.cuh, where q and k have these addresses."""
        if by_channel:
            return (self.entered_q, self.left_k, self.entered_k, self.numbers)
        return (q, k, self.steps)

    def moved(self, start: int) -> "Parts":
        """Their addresses in a room that begins at an address."""
        return Parts(*(offset + start for offset in vars(self).values()))


class Segment(NamedTuple):
    """Of the length: what its chunks hold, and the way ahead through them."""

    inside: Launch
    ahead: Launch


class Launches:
    """The kernels over operands that lie like these."""

    def __init__(
        self, given: Operands[Layout], dy: Layout | None, plan: Plan, scale: float
    ) -> None:
        sizes, tiles = DeltaSizes.of(given), plan.tiles
        self.by_channel = tiles.by_channel
        chunks = -(-sizes.length // tiles.chunk)
        numbers = (sizes.batch, sizes.length, sizes.heads, sizes.groups, chunks, sizes.value)
        room = Room()
        self.parts = Parts.in_room(room, sizes, plan, dy is not None)
        self.room = Blank((room.bytes,), torch.uint8, given.v.device)
        self.segments: list[Segment] = []
        rows = sizes.batch * sizes.heads
        device = given.v.device.index
        reset: Field = (0, 0) if given.reset is None else given.reset.stride
        operands: dict[str, Field] = {name: strides_of(getattr(given, name)) for name in "qkv"}
        scaled: dict[str, Field] = {"reset": reset, "options": bits_of_floats(scale)}

        def launch(
            configuration: Any,
            blocks: int,
            fields: dict[str, Field],
            maps: Sequence[BoxMap | None],
            span: range = range(chunks),
        ) -> Launch:
            kernel, threads = configuration.kernel, configuration.threads
            all_ = (*numbers, span.start, len(span))
            return Launch(kernel, configuration, device, blocks, threads, all_, fields, maps)

        def map_of(x: Layout, columns: int) -> BoxMap | None:
            return box_map(x, columns, tiles.chunk) if tiles.wide else None

        of_keys = [map_of(given.q, tiles.key), map_of(given.k, tiles.key)]

        of_operands = {"q": operands["q"], "k": operands["k"]}
        decays: dict[str, Field] = {"g": given.g.stride[:3]}
        steps = {**decays, "beta": given.beta.stride}
        keys: dict[str, Field] = {**of_operands, "steps": ()}
        found: dict[str, Field] = {"steps": ()}
        of_walk: list[BoxMap | None] = of_keys
        if tiles.by_channel:
            keys = dict.fromkeys(("entered_q", "left_k", "entered_k", "numbers"), ())
            found |= dict.fromkeys(("numbers", "entered_q", "left_k", "entered_k"), ())
            of_walk = [None, None]
        squares: dict[str, Field] = {"solver": (), "weights": ()}
        fields = {**of_operands, **steps, **scaled, **found, **squares, "inverse": ()}
        # The output lies like this.
        rows_of_y = Layout(given.v.shape, row_major(given.v.shape), given.v.dtype, given.v.device)
        ahead = {
            **keys,
            "v": operands["v"],
            **squares,
            **dict.fromkeys(("written", "states", "start"), ()),
            "y": strides_of(rows_of_y),
            "end": (),
        }
        of_y = map_of(rows_of_y, tiles.value_tile) if dy is None else None
        of_values = [map_of(given.v, tiles.value_tile), of_y]
        blocks = rows * tiles.value_tiles
        inside = plan.inside if dy is None else plan.inside_for_gradients
        walks = plan.ahead if dy is None else plan.again
        at_once = -(-chunks // plan.segments)
        for first in range(0, chunks, at_once):
            span = range(first, min(first + at_once, chunks))
            prepare = launch(inside, rows * len(span), fields, of_keys, span)
            walk = launch(walks, blocks, ahead, [*of_walk, *of_values], span)
            self.segments.append(Segment(prepare, walk))
        if dy is None:
            return
        back = {
            **keys,
            "dy": strides_of(dy),
            **squares,
            **dict.fromkeys(("solved", "adjoints", "start", "end"), ()),
        }
        self.back = launch(plan.back, blocks, back, [*of_walk, map_of(dy, tiles.value_tile)])
        found = dict.fromkeys(("steps", "states", "adjoints", "written", "solved"), ())
        wanted = dict.fromkeys(("dq", "dk", "dv", "dg", "dbeta"), ())
        self.gradients = launch(
            plan.gradients,
            rows * chunks,
            {
                **operands,
                "dy": strides_of(dy),
                **(decays if tiles.by_channel else {}),
                **scaled,
                **found,
                **wanted,
            },
            [*of_keys, *(map_of(x, plan.gradients.width) for x in (given.v, dy))],
        )
