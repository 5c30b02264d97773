"""What a layer does around its scan: nothing that mixes positions, or it is not read.

A replay compares what goes into a layer's output projection with the recurrence that was read. It
sees neither what the layer does to its input before that, nor what it does to its output after.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from keelback.audit._parameters import whole
from keelback.audit.adapters.base import Adapter, LayerCall

_ROUNDING = {torch.float16: 0.02, torch.bfloat16: 0.05}
_IN_FLOAT32 = 1e-4


def why_more_than_its_scan(
    reader: Adapter,
    module: Any,
    call: LayerCall,
    given: Mapping[str, Any],
    times: Counter[str],
) -> str | None:
    """Why a layer does more than the scan that its adapter reads; `None` where it does not.

    A part that runs twice in one call makes a second scan, such as one over the reversed sequence
    with the same weights. Where the layer's input is not what its first projection is given, up to
    a factor, or its output not what its last projection gives, the layer is run again with one
    position changed: no other may change before the scan, or after it.

    Args:
        reader: reads the layer.
        module: the layer.
        call: one call of it.
        given: what it was called with, by name, its input first.
        times: how often each of its watched parts ran in that call.
    """
    often = next((name for name, count in times.items() if count > 1), None)
    if often is not None:
        return (
            f"its {often} runs {times[often]} times in one call of the layer: it scans more than "
            "once"
        )
    first, last = call.seen.get(reader.entry or ""), call.seen.get(reader.projection or "")
    before = first is not None and not _is_multiple(first.input, call.masked(call.hidden_states))
    after = last is not None and call.output is not None
    after = after and not _is_multiple(call.output, last.output)  # type: ignore[union-attr, arg-type]
    if not before and not after:
        return None
    trial = _Trial(reader, module, call, given)
    if trial.differs():
        return "it gives something else for the same input when it is called again"
    if before and trial.positions_before() > 1:
        return "it mixes positions before the projection whose output is scanned"
    if after and trial.positions_after() > 1:
        return "it mixes positions after the scan and its output projection"
    return None


def _is_multiple(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same up to a factor, where they are finite."""
    if one.numel() != other.numel():
        return False
    pair = _finite(one, other)
    if pair is None:
        return False
    x, y = pair
    factor = (x @ y) / (y @ y).clamp_min(1e-300)
    return float((x - factor * y).norm()) <= _rounding(one, other) * float(x.norm())


def _rounding(*tensors: Tensor) -> float:
    return max(_ROUNDING.get(x.dtype, _IN_FLOAT32) for x in tensors)


class _Trial:
    """The layer, called again with one position changed."""

    def __init__(
        self, reader: Adapter, module: Any, call: LayerCall, given: Mapping[str, Any]
    ) -> None:
        self._entry: Any = getattr(module, reader.entry or "", None)
        self._projection: Any = getattr(module, reader.projection or "", None)
        self._module, self._call, self._given = module, call, dict(given)

    def differs(self) -> bool:
        """Whether the same input gives another output than it did."""
        output = self._run()
        return self._call.output is None or not _is_close(output, self._call.output)

    def positions_before(self) -> int:
        """How many positions of the first projection's input one of the layer's input changes."""
        seen: list[Tensor] = []
        with _hooked(
            self._entry.register_forward_pre_hook, lambda _, args: seen.append(whole(args[0]))
        ):
            self._run()
            self._run(_changed)
        return _positions(seen[0], seen[-1])

    def positions_after(self) -> int:
        """How many positions of the layer's output depend on one of what it is made of.

        That is the layer's input and what its last projection gives, changed at that position.
        """
        seen: list[Tensor] = []
        with _hooked(self._projection.register_forward_hook, lambda _, args, y: seen.append(y)):
            output = self._run()
        fixed = _changed(whole(seen[-1]))
        with _hooked(self._projection.register_forward_hook, lambda _, args, y: fixed):
            return _positions(output, self._run(_changed))

    def _run(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        name, hidden = next(iter(self._given.items()))
        given = {**self._given, name: change(hidden)}
        by_place = [x for n, x in given.items() if n == name or n.startswith("argument ")]
        output = self._module(
            *by_place,
            **{n: x for n, x in given.items() if n != name and not n.startswith("argument ")},
        )
        return whole(output[0] if isinstance(output, tuple | list) else output)


@contextmanager
def _hooked(register: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(register(hook).remove)
        yield


def _is_close(one: Tensor, other: Tensor) -> bool:
    pair = _finite(one, other)
    if pair is None:
        return False
    x, y = pair
    return float((x - y).norm()) <= _rounding(one, other) * float(y.norm())


def _finite(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    """The numbers where both are finite, one after the other; None if only one is somewhere.

    States that overflow are what an audit is to find: they say nothing of another scan.
    """
    x, y = one.detach().double().flatten(), other.detach().double().flatten()
    finite = x.isfinite()
    return (x[finite], y[finite]) if torch.equal(finite, y.isfinite()) else None


def _changed(x: Tensor) -> Tensor:
    """A tensor with one position of its first sequence changed, in the middle."""
    rows = x.detach().clone().reshape(x.shape[0], -1, x.shape[-1])
    middle = rows.shape[1] // 2
    rows[0, middle] = rows[0, middle].flip(0) + rows[0].float().std().to(rows.dtype)
    return rows.reshape(x.shape)


def _positions(one: Tensor, other: Tensor) -> int:
    """At how many positions two tensors differ."""
    rows = (one.double() - other.double()).reshape(-1, one.shape[-1]).norm(dim=-1)
    noise = _rounding(one, other) * float(rows.max())
    return int((rows > noise).sum())
