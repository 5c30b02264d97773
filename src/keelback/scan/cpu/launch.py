"""The CPU backend: hands tensors to the compiled kernels, block by block, on several threads."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from keelback.compiled.layouts import Blank, Layout, Signature, layouts_of, row_major
from keelback.compiled.scratch import kept_scratch
from keelback.compiled.threads import run_ranges
from keelback.scan._operands import Operands, ScanSizes
from keelback.scan.cpu.plan import OPERANDS, PARAMETERS, CpuPlan

_kept = threading.local()
#: What the kernels call the operands, and in which order their record has them.
_NAMES = {"delta_bias": "bias", "initial_state": "initial"}
_PLACES = {name: place for place, name in enumerate(OPERANDS)}


def _kept_record() -> Any:
    """This thread's record of parameters, once as integers: a scan is over before the next."""
    if not hasattr(_kept, "record"):
        record = np.zeros(1, PARAMETERS)
        _kept.record = record.view(np.int64), record
    return _kept.record


@dataclass(frozen=True)
class _Record:
    """The record that describes a scan to the kernels, all but the addresses."""

    words: Any
    places: Any

    @classmethod
    def of(
        cls,
        plan: CpuPlan,
        flags: tuple[bool, ...],
        itemsize: int,
        strides: Mapping[str, tuple[int, ...] | None],
    ) -> "_Record":
        """From the strides of the operands that are there, in the order of their addresses.

        The strides of axes that an operand lacks, which can only be its first, are zero.
        """
        values = [0] * len(OPERANDS) + [*plan.numbers, *flags]
        for name, axes in OPERANDS.items():
            width = 1 if name == "reset" else itemsize
            present = [width * stride for stride in strides.get(name) or ()]
            values += [0] * (len(axes) - len(present)) + present
        given = [_PLACES[name] for name, of_axes in strides.items() if of_axes is not None]
        return cls(np.array(values, np.int64), np.array(given, np.intp))

    def filled(self, tensors: Sequence[Tensor | None]) -> Any:
        """The record with the addresses of the tensors that are there."""
        words, record = _kept_record()
        words[:] = self.words
        words[self.places] = [x.data_ptr() for x in tensors if x is not None]
        return record


class CpuScan:
    """The scans of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: Operands[Layout], softplus: bool) -> None:
        u = given.u
        self._given, self._softplus, self._dtype = given, softplus, u.dtype
        self._plan = plan = CpuPlan(ScanSizes.of(given))
        *self._rows, _, _ = u.shape
        self._per_state = given.A.shape[-2:]
        self._y = self._blank(u.shape)
        self._last = self._blank((*self._rows, *self._per_state))
        self._chunk_states = self._blank(plan.chunk_states_shape)
        self._forward_records: dict[bool, _Record] = {}
        self._backward_records: dict[Any, _Record] = {}
        found = self._gradients_by_name()
        self._names, self._gradients = list(found), list(found.values())
        self._returned = [self._names.index(name) if name in found else None for name in _RETURNED]

    def _blank(self, shape: Sequence[int]) -> Blank:
        return Blank(shape, self._dtype, torch.device("cpu"))

    def _strides(self) -> dict[str, tuple[int, ...] | None]:
        """Of the operands, by the names that the kernels have for them."""
        given = self._given
        strides = {
            _NAMES.get(name, name): None if x is None else x.stride
            for name, x in zip(Operands._fields, given, strict=True)
        }
        if given.shares_delta:
            strides["delta"] = (*given.delta.stride[:-1], 0)
        return strides

    def forward(
        self, operands: Sequence[Tensor | None], keep: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Output, last state, and the states at the starts of chunks."""
        plan = self._plan
        y, last, chunk_states = self._y(), self._last(), self._chunk_states() if keep else None
        if plan.sizes.empty:
            initial = operands[8]
            last.zero_() if initial is None else last.copy_(initial)
            return y, last, chunk_states
        record = self._forward_records.get(keep) or self._forward_record(keep)
        outputs = (y, last, chunk_states) if keep else (y, last)
        parameters = record.filled((*operands, *outputs))
        self._run_forward(parameters, plan.blocks, plan.cost)
        return y, last, chunk_states

    @cached_property
    def _run_forward(self) -> Callable[[Any, int, float], None]:
        from keelback.scan.cpu.forward import forward_blocks, forward_scratch

        sizes = self._plan.sizes
        return self._runner(forward_blocks, forward_scratch(sizes.states, self._plan.chunk))

    @cached_property
    def _run_backward(self) -> Callable[[Any, int, float], None]:
        from keelback.scan.cpu.backward import backward_scratch, backward_units

        sizes = self._plan.sizes
        return self._runner(backward_units, backward_scratch(sizes.states, self._plan.chunk))

    def _runner(self, kernel: Any, scratch: int) -> Callable[[Any, int, float], None]:
        """Runs a kernel over units of work that cost so many microseconds, by several threads."""
        dtype = self._dtype

        def run(parameters: Any, units: int, cost: float) -> None:
            run_ranges(
                lambda start, stop: kernel(parameters, kept_scratch(scratch, dtype), start, stop),
                units,
                cost,
            )

        return run

    def _forward_record(self, keep: bool) -> _Record:
        record = self._forward_records[keep] = self._record_into(row_major(self._last.shape), keep)
        return record

    def _record_into(self, last: tuple[int, ...], keep: bool = False) -> _Record:
        """Of a pass that leaves the last state with these strides, and keeps others or not."""
        strides = {**self._strides(), "y": row_major(self._y.shape), "last": last}
        if keep:
            strides["chunk_states"] = row_major(self._plan.chunk_states_axes)
        return _Record.of(self._plan, (self._softplus, False), self._dtype.itemsize, strides)

    def _gradients_by_name(self) -> "dict[str, _Gradient]":
        """Of each gradient that there is: what makes it, or the parts that are added up to it."""
        given, plan = self._given, self._plan
        of_delta = plan.sizes.groups * plan.splits if given.shares_delta else 1
        of_u = _Gradient(self._y)
        found = {
            "du": of_u,
            "ddelta": self._partial_sums(of_delta, given.delta, 4),
            "dA": self._sum_over_rows(given.A),
            "dB": self._partial_sums(plan.splits, given.B, 5),
            "dC": self._partial_sums(plan.splits, given.C, 5),
        }
        if given.D is not None:
            found["dD"] = self._sum_over_rows(given.D)
        if given.z is not None:
            found["dz"] = of_u
        if given.delta_bias is not None:
            found["dbias"] = self._sum_over_rows(given.delta_bias)
        if given.initial_state is not None:
            found["dinitial"] = _Gradient(self._last)
        return found

    def _partial_sums(self, count: int, x: Layout, axes: int) -> "_Gradient":
        """A sum of `count` tensors like x, which has `axes` axes with that of replicas."""
        if count == 1:
            return _Gradient(self._blank(x.shape))
        parts = self._blank((count, *(1,) * (axes - len(x.shape)), *x.shape))
        return _Gradient(parts, 0, x.shape)

    def _sum_over_rows(self, x: Layout) -> "_Gradient":
        """The gradient of a parameter, one part for each row of the batch."""
        if self._plan.sizes.sequences == 1:
            return _Gradient(self._blank(x.shape))
        replicas = len(self._rows) - 1
        parts = (*self._rows, *x.shape[replicas:])
        return _Gradient(self._blank(parts), replicas, x.shape)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state."""
        plan = self._plan
        found = [gradient.blank() for gradient in self._gradients]
        if plan.sizes.empty:
            for gradient in found:
                gradient.zero_()
            if self._given.initial_state is not None and gradients[1] is not None:
                found[-1].copy_(gradients[1])
        else:
            (chunk_states,) = kept
            if chunk_states is None:
                chunk_states = self.forward(operands, True)[2]
            assert chunk_states is not None
            given = (*operands, chunk_states.contiguous(), *gradients)
            key = tuple([None if x is None else x.stride() for x in gradients])
            record = self._backward_records.get(key) or self._backward_record(key)
            parameters = record.filled((*given, *found))
            self._run_backward(parameters, plan.units, 3.0 * plan.cost)
        for place, of_parts in enumerate(self._gradients):
            if of_parts.axis is not None:
                found[place] = of_parts.of(found[place])
        return tuple([None if place is None else found[place] for place in self._returned])

    def _backward_record(self, key: tuple[Any, ...]) -> _Record:
        strides = {**self._strides(), "chunk_states": row_major(self._plan.chunk_states_axes)}
        strides["dy"], strides["dlast"] = key
        for name, gradient in zip(self._names, self._gradients, strict=True):
            strides[name] = row_major(gradient.blank.shape)
        flags = (self._softplus, self._given.shares_delta)
        record = _Record.of(self._plan, flags, self._dtype.itemsize, strides)
        if len(self._backward_records) < _RECORDS:
            self._backward_records[key] = record
        return record


class _Gradient(NamedTuple):
    """What makes a gradient, or parts of it to be summed over an axis to a shape."""

    blank: Blank
    axis: int | None = None
    shape: torch.Size = torch.Size()

    def of(self, parts: Tensor) -> Tensor:
        """The gradient, from what the kernels wrote."""
        assert self.axis is not None
        total = parts.sum(self.axis)
        return total if total.shape == self.shape else total.view(self.shape)


_RETURNED = ("du", "ddelta", "dA", "dB", "dC", "dD", "dz", "dbias", "dinitial")
#: Records kept for each signature: gradients of an output come with few kinds of strides.
_RECORDS = 16


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[bool, ...]) -> CpuScan:
    """The scans of operands with this signature, and with softplus or without."""
    given: Any = Operands(*layouts_of(signature))
    return CpuScan(given, *options)
