"""The delta rule on the CPU: hands tensors to the compiled kernels, on several threads."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.compiled.scratch import kept_scratch
from keelback.compiled.threads import run_ranges
from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.call import ChunkedDelta

_PER_MICROSECOND = 15000.0  # Products that one thread computes.
Strides = tuple[int, int, int]


class CpuDelta(ChunkedDelta):
    """Forward passes by the kernels; gradients are computed by chunks of PyTorch's products."""

    @staticmethod
    def run(given: Operands[Tensor], options: Options) -> tuple[Tensor, Tensor]:
        """Output and last states of a delta rule that is not empty."""
        sizes = DeltaSizes.of(given)
        y = given.v.new_empty(given.v.shape)
        last = given.v.new_empty(sizes.batch, sizes.heads, sizes.key, sizes.value)
        _run(given, sizes, options[0], options[2], y, last)
        return y, last


class CpuStep:
    """Steps of one signature, as rules of one step; they have no gradients."""

    def __init__(self, given: Operands[Layout], normalise: bool, scale: float) -> None:
        self._options = normalise, scale
        batch, heads, value = given.v.shape
        self._sizes = DeltaSizes(batch, 1, heads, value, *given.k.shape[1:])

    def forward(self, operands: Any, keep: bool) -> tuple[Tensor, Tensor]:
        """Output and new states."""
        given: Operands[Any] = Operands(*operands)
        start: Any = given.initial_states
        y, states = given.v.new_empty(given.v.shape), start.new_empty(start.shape)
        _run(given, self._sizes, *self._options, y, states)
        return y, states


def _run(
    given: Operands[Tensor],
    sizes: DeltaSizes,
    normalise: bool,
    scale: float,
    y: Tensor,
    last: Tensor,
) -> None:
    """Fill y and the last states, of a rule or, without the axis of the length, of a step."""
    from keelback.delta.cpu import forward, plan

    by_step = len(given.v.shape) == 3
    by_channel = len(given.g.shape) == len(given.v.shape)
    q, k, v = (_adjacent(x) for x in (given.q, given.k, given.v))
    decays = torch.exp(given.g)
    decays = _adjacent(decays) if by_channel else decays
    initial = None if given.initial_states is None else given.initial_states.contiguous()
    reset = None if given.reset is None else given.reset.contiguous()
    read = (q, k, v, decays, given.beta)
    addresses = tuple([0 if x is None else x.data_ptr() for x in (*read, initial, reset, y, last)])
    strides = tuple([_strides(x, by_step) for x in read])
    shape = (sizes.length, sizes.heads, sizes.heads_per_group, sizes.key, sizes.value)
    numbers = (*shape, plan.padded(sizes.key), plan.padded(sizes.value))
    floats = plan.scratch_floats(sizes.key, sizes.value)

    def work(start: int, stop: int) -> None:
        scratch = kept_scratch(floats, torch.float32)
        forward.run_units(
            scratch, addresses, strides, numbers, by_channel, normalise, scale, start, stop
        )

    units = sizes.batch * sizes.heads
    products = units * sizes.length * sizes.key * sizes.value * 8
    run_ranges(work, units, products / _PER_MICROSECOND)


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _strides(x: Tensor, by_step: bool) -> Strides:
    """In bytes, of row, step and head."""
    row, *others = [stride * 4 for stride in x.stride()]
    return (row, 0, others[0]) if by_step else (row, others[0], others[1])


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: Options) -> Prepared:
    """The delta rules of operands with this signature."""
    given: Any = Operands(*layouts_of(signature))
    by_kernels = given.v.dtype == torch.float32 and not options[1]
    return (CpuDelta if by_kernels else ChunkedDelta)(given, options)


def prepare_step(given: Operands[Layout], normalise: bool, scale: float) -> CpuStep | None:
    """The step over operands like these, if the kernels take them as they are."""
    floating = [x for x in given.differentiable if x is not None]
    if any(x.dtype != torch.float32 or x.device.type != "cpu" for x in floating):
        return None
    if not all(size for x in floating for size in x.shape):
        return None
    return CpuStep(given, normalise, scale)
