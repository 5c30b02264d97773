"""One look at the state-space layers of a model while it trains."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from keelback.audit._inputs import Inputs, are_tokens, call
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, watching
from keelback.audit._losses import LanguageModel
from keelback.audit._model import as_written, evaluating
from keelback.audit._parameters import device_of
from keelback.audit._recurrence import Recurrence
from keelback.audit._replay import NOTHING_FINITE, Replay
from keelback.audit._spans import Span

SEQUENCES_READ = 4
_STATES_READ = 8


@dataclass(frozen=True)
class LayerReading:
    """One layer at one step, on the first sequences of a batch. Logarithms are natural.

    Of several processes, each on its own batch: the largest of all, and of `delta` the mean.

    Attributes:
        spectral_abscissa: the largest entry of A.
        delta: mean step size.
        log_growth: largest over rates of the logarithm of what a state is multiplied by over the
            whole sequence; below 0 it decays.
        log_state: logarithm of the largest state norm; infinite once it overflows.

    Examples:
        >>> reading = LayerReading(10, "layers.0", -0.5, delta=0.1, log_growth=-0.05, log_state=2.0)
        >>> reading.log_growth < 0  # the state shrinks from token to token
        True
    """

    step: int
    layer: str
    spectral_abscissa: float
    delta: float
    log_growth: float
    log_state: float


class Look(NamedTuple):
    """What one process sees of a layer.

    Attributes:
        reading: for the record.
        sums: the largest sum over a sequence of every rate's step sizes.
        can_grow: whether an update may make A positive: not where A is minus an exponential.
    """

    reading: LayerReading
    sums: Tensor
    can_grow: bool


class ReadingError(Exception):
    """What was seen of a forward pass cannot be read; nothing was wrong with the pass itself."""


Run = Callable[[], object]
"""Runs a model, or its state-space layers, on a few sequences."""


@torch.no_grad()
def look(
    model: nn.Module,
    layers: Sequence[Layer],
    step: int,
    run: Run,
    unread: dict[str, str] | None = None,
) -> list[Look]:
    """Read every layer while `run` runs the model; the model is left as it was.

    With `unread`, each reading is proved: layers that are not what they look like are put there by
    name, with the reason, and are not read.

    Raises:
        ReadingError: a layer could not be read, or none was called. The pass was run to its end.
        Exception: whatever `run` raises.
    """
    looks: list[Look] = []
    failures: list[Exception] = []

    def receive(layer: Layer, hidden_states: Tensor, recurrence: Recurrence) -> None:
        positions = Span(recurrence.length, recurrence.length).sampled_positions()
        chosen = positions[:: -(-len(positions) // _STATES_READ)] + positions[-1:]
        sums = recurrence.delta.sum(1).amax(0).cpu()
        norm = float(recurrence.state_norms(sorted(set(chosen))).max())
        reading = LayerReading(
            step,
            layer.name,
            float(recurrence.A.max()),
            float(recurrence.delta.mean()),
            float((recurrence.A.amax(-1).cpu() * sums).max()),
            _log(norm),
        )
        looks.append(Look(reading, sums, not layer.adapter.always_decays(layer.module)))

    try:
        prove = None if unread is None else partial(_put_down, unread)
        watched = watching(layers, receive, prove, failed=failures.append)
        with evaluating(model), as_written(model), fast_scans(model), watched:
            run()
    finally:
        for module in model.modules():
            reshard: Any = getattr(module, "reshard", None)
            if reshard is not None:  # FSDP2 leaves the outermost module's parameters whole
                reshard()
    if failures:
        raise ReadingError(str(failures[0]) or type(failures[0]).__name__) from failures[0]
    if not looks and not unread:
        raise ReadingError("the forward pass calls none of the layers")
    return [own for own in looks if own.reading.layer not in (unread or ())]


def _put_down(unread: dict[str, str], directions: Sequence[Layer], replay: Replay) -> None:
    # States that overflow are for the alarm, and prove nothing of what a layer looks like.
    if replay.why_not is not None and replay.why_not != NOTHING_FINITE:
        unread.update((layer.name, replay.why_not) for layer in directions)


def run_on(model: nn.Module, inputs: Inputs) -> None:
    """Run a model on the first few sequences of a batch."""
    device = device_of(model)
    if isinstance(inputs, Tensor):
        first = inputs[:SEQUENCES_READ].to(device)
        if are_tokens(first):
            LanguageModel(model).logits(first)
        else:
            call(model, first)
        return
    call(model, {n: x.to(device) if isinstance(x, Tensor) else x for n, x in few(inputs).items()})


def few(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The first few sequences of a batch of tensors by name; all else as it is."""
    sizes = [x.shape[0] for x in inputs.values() if isinstance(x, Tensor) and x.ndim > 0]
    batch = sizes[0] if sizes else 0
    return {
        name: x[:SEQUENCES_READ]
        if isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == batch
        else x
        for name, x in inputs.items()
    }


def together(every: Sequence[Sequence[Look]]) -> list[Look]:
    """One reading per layer of those that several processes took of the same model."""
    merged: dict[str, list[Look]] = {}
    for looks in every:
        for own in looks:
            merged.setdefault(own.reading.layer, []).append(own)
    return [_largest(looks) for looks in merged.values()]


def _largest(looks: Sequence[Look]) -> Look:
    readings = [own.reading for own in looks]
    sums = looks[0].sums
    for other in looks[1:]:
        sums = torch.maximum(sums, other.sums)
    merged = LayerReading(
        readings[0].step,
        readings[0].layer,
        max(r.spectral_abscissa for r in readings),
        math.fsum(r.delta for r in readings) / len(readings),
        max(r.log_growth for r in readings),
        max(r.log_state for r in readings),
    )
    return Look(merged, sums, any(own.can_grow for own in looks))


def _log(value: float) -> float:
    if math.isnan(value):
        return math.inf
    return math.log(value) if value > 0 else -math.inf


RowT = TypeVar("RowT")


def rows_as(kind: Callable[..., RowT], rows: Iterable[Mapping[str, Any]]) -> list[RowT]:
    """Readings or alarms as they were stored, without those of another version's fields."""
    found = []
    for row in rows:
        with suppress(TypeError):
            found.append(kind(**row))
    return found
