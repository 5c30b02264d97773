"""Watching a model train: readings now and then, and warnings before a number overflows."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from keelback.audit._edits import keep
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, find_layers, watching
from keelback.audit._losses import LanguageModel
from keelback.audit._recurrence import Recurrence
from keelback.audit._spans import Span
from keelback.errors import InputError

if TYPE_CHECKING:
    import polars as pl

Action = Literal["warn", "clip", "rescale", "lower-rate", "stop"]
ACTIONS: tuple[Action, ...] = ("warn", "clip", "rescale", "lower-rate", "stop")

_TREND_READINGS = 5
_SPANS_AHEAD = 3
_STATES_READ = 8
_SEQUENCES_READ = 4
_NEAR, _CONCERNING = 0.8, 0.4
_UPDATES_AHEAD = 1
_LEFT_AFTER_ACTION = 0.25
_LOWER_RATE = 0.3


@dataclass(frozen=True)
class LayerReading:
    """One layer at one step, on the first sequence of a batch. Logarithms are natural.

    Attributes:
        spectral_abscissa: the largest entry of A.
        delta: mean step size.
        log_growth: largest over rates of the logarithm of what a state is multiplied by over the
            whole sequence; below 0 it decays.
        log_state: logarithm of the largest state norm; infinite once it overflows.
    """

    step: int
    layer: str
    spectral_abscissa: float
    delta: float
    log_growth: float
    log_state: float


@dataclass(frozen=True)
class Alarm:
    """A warning: which layer, why, and in how many steps it overflows if it goes on as it did."""

    step: int
    layer: str
    message: str
    steps_left: float
    action: Action


class TrainingMonitor:
    """Reads the state-space layers of a model while it trains, and warns before they overflow.

    It is for training loops of any kind (PyTorch, transformers, Lightning) and any state-space
    layer, reads states on the batch at hand, and can act. `keelback.training.StabilityMonitor`
    instead is a part of keelback's own loop: it records the theory's class constants of a
    selective SSM from its weights, once per epoch, and never acts.

    Gradients overflow before states do: they are squared on the way to their norm. The limit is
    therefore half of the logarithm of the largest number of the model's type. A layer is in alarm
    when the logarithm of its largest state

    - is within a fifth of the limit, or
    - has passed two fifths of it, and would reach it within `horizon` steps at the pace of its last
      five readings (their median slope); no further ahead than three times the steps that they
      span, or
    - would reach it with the next update, if A can grow: an update of Adam moves an entry of A by
      up to the learning rate, and a state's logarithm by that times the sum of its step sizes.

    Args:
        model: any module that `find_layers` finds state-space layers in.
        every: steps between readings; a reading is one forward pass of a few sequences.
        horizon: how many steps to look ahead.
        action: what to do about an alarm besides recording it. "clip" lowers A where the layer's
            states grow, "rescale" its step sizes, each to a quarter of the limit over the sequence;
            "lower-rate" cuts the optimiser's learning rates to 0.3 of what they are; "stop" sets
            `should_stop`; "warn" does nothing.

    Raises:
        InputError: no state-space layer, an unknown action, or `every` or `horizon` below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 50,
        horizon: int = 200,
        action: Action = "warn",
    ) -> None:
        if action not in ACTIONS:
            raise InputError(f"action is {action!r}; it must be one of {', '.join(ACTIONS)}")
        for name, value in (("every", every), ("horizon", horizon)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        self.every, self.horizon, self.action = every, horizon, action
        self.readings: list[LayerReading] = []
        self.alarms: list[Alarm] = []
        self.should_stop = False
        self._model, self._layers = model, find_layers(model)
        self._language_model = LanguageModel(model)
        largest = torch.finfo(next(model.parameters()).dtype).max
        self._limit = math.log(largest) / 2
        self._can_grow = {layer.name: _can_grow(layer) for layer in self._layers}

    def after_step(
        self,
        step: int,
        tokens: Int[Tensor, "batch length"],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> list[Alarm]:
        """Take a reading if it is time for one; gives the alarms that it raised, acted on.

        `tokens` is the batch of the step; its first few sequences are used. Step 0, before the
        first update, catches what cannot train at all.
        """
        if step % self.every:
            return []
        read = self._read(step, tokens[:_SEQUENCES_READ])
        self.readings += [reading for reading, _ in read]
        rate = _adam_rate(optimizer)
        alarms = [
            alarm
            for reading, sums in read
            if (alarm := self._alarm(reading, sums, rate)) is not None
        ]
        for alarm in alarms:
            self._act(alarm, next(sums for reading, sums in read if reading.layer == alarm.layer))
        if alarms and self.action == "lower-rate" and optimizer is not None:
            for group in optimizer.param_groups:
                group["lr"] *= _LOWER_RATE
        self.should_stop |= bool(alarms) and self.action == "stop"
        self.alarms += alarms
        return alarms

    def summary(self) -> dict[str, float]:
        """The last reading in a few numbers, for a logger; none before the first."""
        if not self.readings:
            return {}
        last = [r for r in self.readings if r.step == self.readings[-1].step]
        return {
            "keelback/spectral_abscissa": max(r.spectral_abscissa for r in last),
            "keelback/delta": sum(r.delta for r in last) / len(last),
            "keelback/log_growth": max(r.log_growth for r in last),
            "keelback/log_state": max(r.log_state for r in last),
            "keelback/alarms": float(len(self.alarms)),
        }

    def history(self) -> "pl.DataFrame":
        """One row a layer and reading."""
        import polars as pl

        return pl.DataFrame([asdict(reading) for reading in self.readings])

    @torch.no_grad()
    def _read(
        self, step: int, tokens: Int[Tensor, "sequences length"]
    ) -> list[tuple[LayerReading, Tensor]]:
        """Readings, each with the largest sum over a sequence of every rate's step sizes."""
        positions = Span(tokens.shape[1], tokens.shape[1]).sampled_positions()
        chosen = positions[:: -(-len(positions) // _STATES_READ)] + positions[-1:]
        read: list[tuple[LayerReading, Tensor]] = []

        def receive(layer: Layer, hidden_states: Tensor, recurrence: Recurrence) -> None:
            sums = recurrence.delta.sum(1).amax(0)
            norm = float(recurrence.state_norms(sorted(set(chosen))).max())
            reading = LayerReading(
                step,
                layer.name,
                float(recurrence.A.max()),
                float(recurrence.delta.mean()),
                float((recurrence.A.amax(-1) * sums).max()),
                _log(norm),
            )
            read.append((reading, sums))

        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        try:
            with fast_scans(self._model), watching(self._layers, receive):
                self._language_model.logits(tokens)
        finally:
            for module, mode in modes:
                module.training = mode
        return read

    def _alarm(self, reading: LayerReading, sums: Tensor, rate: float) -> Alarm | None:
        left = self._steps_left(reading, sums, rate)
        if left is None:
            return None
        when = "now" if left == 0 else f"in about {left:.0f} steps" if left < math.inf else "soon"
        message = (
            f"states of {reading.layer} reach e^{reading.log_state:.1f} and overflow {when} "
            f"(gradients do at e^{self._limit:.0f}); spectral abscissa "
            f"{reading.spectral_abscissa:.3g}, growth over a sequence e^{reading.log_growth:.1f}"
        )
        return Alarm(reading.step, reading.layer, message, left, self.action)

    def _steps_left(self, reading: LayerReading, sums: Tensor, rate: float) -> float | None:
        """Steps until overflow, or `None` where there is no cause for alarm."""
        room = self._limit - reading.log_state
        if room <= 0:
            return 0.0
        a_step = rate * float(sums.max()) if self._can_grow[reading.layer] else 0.0
        updates = room / a_step if a_step > 0 and reading.spectral_abscissa > -rate else math.inf
        if updates <= _UPDATES_AHEAD:
            return updates
        own = [r for r in self.readings if r.layer == reading.layer][-_TREND_READINGS:]
        pace = _median_slope([(r.step, r.log_state) for r in own])
        left = room / pace if pace > 0 else math.inf
        used = reading.log_state / self._limit
        ahead = min(self.horizon, _SPANS_AHEAD * (own[-1].step - own[0].step))
        return left if used >= _NEAR or (used >= _CONCERNING and left <= ahead) else None

    def _act(self, alarm: Alarm, sums: Tensor) -> None:
        layer = next(own for own in self._layers if own.name == alarm.layer)
        A, allowed = layer.state_matrix(), _LEFT_AFTER_ACTION * self._limit
        growth = float((A.amax(-1) * sums).max())
        edits = None
        if self.action == "clip":
            ceiling = (allowed / sums.clamp_min(torch.finfo(sums.dtype).tiny)).unsqueeze(-1)
            edits = layer.adapter.edit_rates(layer.module, torch.minimum(A, ceiling.to(A.dtype)))
        elif self.action == "rescale" and growth > allowed:
            factor = torch.tensor(allowed / growth, device=A.device)
            edits = layer.adapter.edit_steps(layer.module, factor)
        if edits:
            keep(self._model, {f"{layer.name}.{name}": value for name, value in edits.items()})


def _adam_rate(optimizer: torch.optim.Optimizer | None) -> float:
    """The most that an update moves a parameter, where the optimiser bounds it, as Adam does."""
    groups = [] if optimizer is None else optimizer.param_groups
    return max((float(group["lr"]) for group in groups if "betas" in group), default=0.0)


def _can_grow(layer: Layer) -> bool:
    """Whether an update may make A positive: not where A is minus an exponential."""
    edits = layer.adapter.edit_rates(layer.module, -layer.state_matrix().abs() - 1.0)
    return any(name.rpartition(".")[2] == "A" for name in edits or {})


def _log(value: float) -> float:
    if math.isnan(value):
        return math.inf
    return math.log(value) if value > 0 else -math.inf


def _median_slope(points: Sequence[tuple[int, float]]) -> float:
    """Theil and Sen's estimate of the slope; 0 without enough finite points to call it a trend."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) < _TREND_READINGS:
        return 0.0
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0])
        for i, a in enumerate(finite)
        for b in finite[i + 1 :]
        if b[0] != a[0]
    )
    return slopes[len(slopes) // 2] if slopes else 0.0
