"""The delta rule on the CPU: hands tensors to the compiled kernels, on several threads."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.compiled.scratch import kept_scratch
from keelback.compiled.threads import run_ranges
from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.call import ChunkedDelta, Kept
from keelback.delta.cpu.segments import kept_shapes

_PER_MICROSECOND = 15000.0  # Products that one thread computes.
_ROWS = torch.contiguous_format
Strides = tuple[int, int, int]


class CpuDelta(ChunkedDelta):
    """Delta rules in float32."""

    def _kept(self, given: Operands[Tensor], sizes: DeltaSizes) -> Kept:
        errors, states = kept_shapes(given.v.shape, sizes.key)
        return given.v.new_empty(errors), given.v.new_empty(states)

    def _run(self, given: Operands[Tensor], kept: Kept) -> tuple[Tensor, Tensor]:
        sizes = DeltaSizes.of(given)
        y = given.v.new_empty(given.v.shape)
        last = given.v.new_empty(sizes.batch, sizes.heads, sizes.key, sizes.value)
        normalise, _, scale = self._options
        run(given, sizes, normalise, scale, (y, last, *kept))
        return y, last

    def _gradients(
        self, given: Operands[Tensor], kept: Kept, dy: Tensor | None, dlast: Tensor | None
    ) -> Operands[Tensor]:
        normalise, _, scale = self._options
        return run_backward(given, kept, dy, dlast, normalise, scale)


class CpuStep:
    """Steps of one signature, as rules of one step; they have no gradients."""

    def __init__(self, given: Operands[Layout], normalise: bool, scale: float) -> None:
        self._options = normalise, scale
        batch, heads, value = given.v.shape
        self._sizes = DeltaSizes(batch, 1, heads, value, *given.k.shape[1:])

    def forward(self, operands: Any) -> tuple[Tensor, Tensor]:
        """Output and new states."""
        given: Operands[Any] = Operands(*operands)
        start: Any = given.initial_states
        y, states = given.v.new_empty(given.v.shape), start.new_empty(start.shape)
        run(given, self._sizes, *self._options, (y, states, None, None))
        return y, states


def run(
    given: Operands[Tensor],
    sizes: DeltaSizes,
    normalise: bool,
    scale: float,
    results: tuple[Tensor | None, ...],
    *,
    erases: bool = True,
) -> None:
    """Fill y and the last states, of a rule or, without the axis of the length, of a step; and of a
    rule the errors and the states before segments, if they are wanted.

    A rule that does not erase writes its values as they are, times beta: linear attention.
    """
    from keelback.delta.cpu import forward, plan

    q, k, v, decays = (_adjacent(x) for x in (given.q, given.k, given.v, torch.exp(given.g)))
    read = (q, k, v, decays, given.beta)
    initial = None if given.initial_states is None else given.initial_states.contiguous()
    reset = None if given.reset is None else given.reset.contiguous()
    addresses = _addresses(*read, initial, reset, *results)
    by_step = given.v.ndim == 3
    strides = tuple([_strides(x, by_step) for x in read])
    numbers = _numbers(sizes)
    by_channel = given.g.ndim == given.v.ndim
    floats = plan.scratch_floats(sizes.key, sizes.value)

    def work(start: int, stop: int) -> None:
        scratch = kept_scratch(floats, torch.float32)
        forward.run_units(
            scratch, addresses, strides, numbers, by_channel, normalise, erases, scale, start, stop
        )

    _run_units(work, sizes, 8)


def run_backward(
    given: Operands[Tensor],
    kept: Kept,
    dy: Tensor | None,
    dlast: Tensor | None,
    normalise: bool,
    scale: float,
    *,
    erases: bool = True,
) -> Operands[Tensor]:
    """The gradients of every operand, from those of the output and of the last states.

    Of a rule that does not erase, the errors are the values.
    """
    from keelback.delta.cpu import backward, plan

    sizes = DeltaSizes.of(given)
    q, k, decays = (_adjacent(x) for x in (given.q, given.k, torch.exp(given.g)))
    reset = None if given.reset is None else given.reset.contiguous()
    dy = torch.zeros_like(given.v, memory_format=_ROWS) if dy is None else dy.contiguous()
    dlast = None if dlast is None else dlast.contiguous()
    errors, states = kept
    of_keys = given.k.new_empty(2, *given.v.shape[:3], sizes.key)
    dq, dk = of_keys.unbind()
    dv, dg, dbeta, dinitial = [
        None if x is None else torch.empty_like(x, memory_format=_ROWS)
        for x in (given.v, given.g, given.beta, given.initial_states)
    ]
    sequences = (q, k, decays, given.beta, errors, dy, dq, dk, dv, dg, dbeta)
    tensors = plan.OfSequences(*_addresses(*sequences))
    strides = plan.OfSequences(*[_strides(x, False) for x in sequences])  # type: ignore[arg-type]
    others = _addresses(reset, states, dlast, dinitial)
    at = plan.BackwardPlaces.of(sizes.key, sizes.value)
    numbers = plan.BackwardSizes(*_numbers(sizes))
    told = plan.BackwardOptions(given.g.ndim == given.v.ndim, normalise, erases, scale)

    def work(start: int, stop: int) -> None:
        scratch = kept_scratch(at.end, torch.float32)
        backward.run_units(scratch, at, tensors, strides, others, numbers, told, start, stop)

    _run_units(work, sizes, 24)
    if sizes.heads_per_group > 1:
        dq, dk = of_keys.unflatten(3, (sizes.groups, -1)).sum(4).unbind()
    return Operands(dq, dk, dv, dg, dbeta, dinitial)  # type: ignore[arg-type]


def _run_units(work: Callable[[int, int], None], sizes: DeltaSizes, products: int) -> None:
    """Heads of sequences, on several threads; so many products per number of a state and step."""
    units = sizes.batch * sizes.heads
    cost = units * sizes.length * sizes.key * sizes.value * products / _PER_MICROSECOND
    run_ranges(work, units, cost)


def _numbers(sizes: DeltaSizes) -> tuple[int, ...]:
    """The sizes as the kernels take them."""
    from keelback.delta.cpu.plan import padded

    shape = (sizes.length, sizes.heads, sizes.heads_per_group, sizes.key, sizes.value)
    return (*shape, padded(sizes.key), padded(sizes.value))


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    """Of those that are there, and zero."""
    return tuple([0 if x is None else x.data_ptr() for x in tensors])


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _strides(x: Tensor, by_step: bool) -> Strides:
    """In bytes, of row, step and head."""
    row, *others = [stride * 4 for stride in x.stride()]
    return (row, 0, others[0]) if by_step else (row, others[0], others[1])


def by_kernels(dtype: torch.dtype, by_chunks: bool) -> bool:
    """Whether kernels compute it, and not PyTorch's products."""
    return dtype == torch.float32 and not by_chunks


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: Options) -> Prepared:
    """The delta rules of operands with this signature."""
    given: Any = Operands(*layouts_of(signature))
    kind = CpuDelta if by_kernels(given.v.dtype, options[1]) else ChunkedDelta
    return kind(given, options)


def prepare_step(given: Operands[Layout], normalise: bool, scale: float) -> CpuStep | None:
    """The step over operands like these, if the kernels take them as they are."""
    floating = [x for x in given.differentiable if x is not None]
    if any(x.dtype != torch.float32 or x.device.type != "cpu" for x in floating):
        return None
    if not all(size for x in floating for size in x.shape):
        return None
    return CpuStep(given, normalise, scale)
