"""The GPU backend: hands tensors to the kernels of the delta rule, or to PyTorch's operations."""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.cuda_card import card_of, planes_of
from keelback.compiled.cuda_operands import address, addresses, layout_of, piecewise
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.call import ChunkedDelta, Kept
from keelback.delta.cuda.launches import Launches, Parts
from keelback.delta.cuda.plan import Plan, Traits, plan_of

_ROWS = torch.contiguous_format


class CudaDelta(ChunkedDelta):
    """Delta rules by the kernels."""

    def __init__(self, given: Operands[Layout], options: Options, plan: Callable[[], Plan]) -> None:
        super().__init__(given, options)
        self._plan_now = plan
        self._launches: dict[Any, Launches] = {}

    def _taken(self, given: Operands[Tensor]) -> Operands[Tensor]:
        """As the kernels read them: copied where their layout does not allow it."""
        q, k, v, g, beta, start, reset = given
        start = None if start is None else start.contiguous()
        if g.ndim == v.ndim:
            g = piecewise(g)
        return Operands(piecewise(q), piecewise(k), piecewise(v), g, beta, start, reset)

    def _prepared(
        self, given: Operands[Tensor], dy: Tensor | None
    ) -> tuple[Plan, Launches, Parts, Tensor]:
        """The launches over these, and room for the parts of their chunks."""
        plan = self._plan_now()
        _, _, scale = self._options
        tensors = [*given, dy]
        key = (plan.tiles.planes, *[None if x is None else (x.shape, x.stride()) for x in tensors])
        launches = self._launches.get(key)
        if launches is None:
            *layouts, of_dy = [None if x is None else layout_of(x) for x in tensors]
            launches = Launches(Operands(*layouts), of_dy, plan, scale)  # type: ignore[arg-type]
            self._launches[key] = launches
        memory = launches.room()
        return plan, launches, launches.parts.moved(memory.data_ptr()), memory

    def _run(self, given: Operands[Tensor], kept: Kept) -> tuple[Tensor, Tensor]:
        sizes = DeltaSizes.of(given)
        _, launches, parts, _memory = self._prepared(given, None)
        y = torch.empty_like(given.v, memory_format=_ROWS)
        last = self._states(given, sizes)
        _go_ahead(launches, given, parts, y.data_ptr(), last.data_ptr())
        return y, last

    def _states(self, given: Operands[Tensor], sizes: DeltaSizes) -> Tensor:
        shape = (sizes.batch, sizes.heads, sizes.key, sizes.value)
        return given.v.new_empty(shape, dtype=torch.float32)

    def _gradients(
        self, given: Operands[Tensor], kept: Kept, dy: Tensor | None, dlast: Tensor | None
    ) -> Operands[Tensor]:
        sizes = DeltaSizes.of(given)
        dy = torch.zeros_like(given.v) if dy is None else piecewise(dy)
        dlast = None if dlast is None else dlast.contiguous()
        plan, launches, parts, _memory = self._prepared(given, dy)
        shape = (sizes.batch, sizes.length, sizes.heads)
        of_groups = plan.gradients.dtype_of_groups
        dq, dk = (given.q.new_empty((*shape, sizes.key), dtype=of_groups) for _ in range(2))
        dv = torch.empty_like(given.v, memory_format=_ROWS)
        dg, dbeta = (torch.empty_like(x, memory_format=_ROWS) for x in (given.g, given.beta))
        dstart = None if given.initial_states is None else self._states(given, sizes)
        _go_ahead(launches, given, parts, 0, parts.between)
        of_keys = (address(given.q), address(given.k))
        walk = (*parts.keys(launches.by_channel, *of_keys), dy.data_ptr())
        ends = (parts.solved, parts.adjoints, address(dlast), address(dstart))
        launches.back((*walk, parts.inverse, parts.weights, *ends), (*of_keys, dy.data_ptr()))
        decays = (given.g,) if launches.by_channel else ()
        operands = addresses((given.q, given.k, given.v, dy, *decays, given.reset))
        found = (parts.steps, parts.states, parts.adjoints, parts.written, parts.solved)
        wanted = addresses((dq, dk, dv, dg, dbeta))
        launches.gradients((*operands, *found, *wanted), operands[:4])
        if sizes.heads_per_group > 1:
            dq, dk = (x.unflatten(2, (sizes.groups, -1)).sum(3) for x in (dq, dk))
        return Operands(dq, dk, dv, dg, dbeta, dstart)


def _go_ahead(
    launches: Launches,
    given: Operands[Tensor],
    parts: Parts,
    y: int,
    last: int,
) -> None:
    """What the chunks hold, and the way through them, from the initial to the last states.

    `y` and `last` are the addresses of the output, if it is wanted, and of the last states. Where
    there are several segments, a stream of its own goes ahead through one while the chunks of the
    next are prepared.
    """
    q, k, v, *steps = addresses((given.q, given.k, given.v, given.g, given.beta, given.reset))
    inside = (q, k, *steps, *parts.found(launches.by_channel))
    keys = parts.keys(launches.by_channel, q, k)
    walk = (*keys, v, parts.solver, parts.weights, parts.written, parts.states)
    start, segments = address(given.initial_states), launches.segments

    def go_through(number: int) -> None:
        before = last if number else start
        segments[number].ahead((*walk, before, y, last), (q, k, v, y))

    if len(segments) == 1 or not given.v.is_cuda:
        for number, segment in enumerate(segments):
            segment.inside(inside, (q, k))
            go_through(number)
        return
    here, walking = torch.cuda.current_stream(given.v.device), _walking_stream(given.v.device)
    ready = []
    for segment in segments:
        segment.inside(inside, (q, k))
        ready.append(here.record_event())
    with torch.cuda.stream(walking):
        for number, event in enumerate(ready):
            walking.wait_event(event)
            go_through(number)
    here.wait_stream(walking)


@cache
def _walking_stream(device: torch.device) -> torch.cuda.Stream:
    """Whose kernels go first."""
    return torch.cuda.Stream(device, priority=-1)


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> Prepared:
    """The delta rules of operands with this signature."""
    given: Any = Operands(*layouts_of(signature))
    normalise, by_chunks, scale = options
    axes = 4  # of v without replicas
    by_channel = len(given.g.shape) == len(given.v.shape)
    sizes = DeltaSizes(*_joined_shape(given.v.shape, axes), *given.k.shape[-2:])

    def plan_for(planes: int) -> Plan | None:
        traits = Traits(
            given.v.dtype,
            given.g.dtype,
            given.beta.dtype,
            planes,
            normalise,
            given.reset is not None,
            by_channel,
        )
        return plan_of(sizes, traits, card_of(given.v.device))

    exact = 1 if given.v.dtype != torch.float32 else 3
    if by_chunks or sizes.empty or plan_for(exact) is None:
        return ChunkedDelta(given, (normalise, True, scale))
    plans = lru_cache(plan_for)

    def plan_now() -> Plan:
        """That for the products that PyTorch allows now."""
        found = plans(planes_of(given.v.dtype)) or plans(exact)
        assert found is not None
        return found

    return CudaDelta(given, (normalise, False, scale), plan_now)


def _joined_shape(shape: torch.Size, axes: int) -> tuple[int, ...]:
    """With the axis of replicas joined with that of rows."""
    return tuple(shape) if len(shape) == axes else (shape[0] * shape[1], *shape[2:])
