"""When a reading is cause for alarm: how far a layer's states are from overflow, and how fast."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from keelback.audit.monitoring._readings import LayerReading

Action = Literal["warn", "clip", "rescale", "lower-rate", "stop"]
ACTIONS: tuple[Action, ...] = ("warn", "clip", "rescale", "lower-rate", "stop")

_TREND_READINGS = 5
_SPANS_AHEAD = 3
_NEAR, _CONCERNING = 0.8, 0.4
_UPDATES_AHEAD = 1


@dataclass(frozen=True)
class Alarm:
    """A warning: which layer, why, and in how many steps it overflows if it goes on as it did.

    Examples:
        >>> alarm = Alarm(300, "layers.0", "the state grows", steps_left=40.0, action="warn")
        >>> alarm.layer, alarm.steps_left
        ('layers.0', 40.0)
    """

    step: int
    layer: str
    message: str
    steps_left: float
    action: Action


@dataclass(frozen=True)
class Rules:
    """What decides on an alarm.

    Attributes:
        limit: logarithm of a state from which gradients overflow.
        horizon: how many steps to look ahead.
        action: what the alarm says will be done.
    """

    limit: float
    horizon: int
    action: Action

    def alarm(
        self,
        reading: LayerReading,
        earlier: Sequence[LayerReading],
        sums: Tensor,
        rate: float,
        can_grow: bool,
    ) -> Alarm | None:
        """The alarm that a reading raises, if it does.

        Args:
            reading: of one layer.
            earlier: readings of the same layer up to this one, the oldest first.
            sums: largest sum over a sequence of every rate's step sizes.
            rate: the most that an update moves a parameter.
            can_grow: whether an update may make A positive.
        """
        left = self._steps_left(reading, earlier, sums, rate if can_grow else 0.0)
        if left is None:
            return None
        when = "now" if left == 0 else f"in about {left:.0f} steps" if left < math.inf else "soon"
        message = (
            f"states of {reading.layer} reach e^{reading.log_state:.1f} and overflow {when} "
            f"(gradients do at e^{self.limit:.0f}); spectral abscissa "
            f"{reading.spectral_abscissa:.3g}, growth over a sequence e^{reading.log_growth:.1f}"
        )
        return Alarm(reading.step, reading.layer, message, left, self.action)

    def _steps_left(
        self, reading: LayerReading, earlier: Sequence[LayerReading], sums: Tensor, rate: float
    ) -> float | None:
        """Steps until overflow, or `None` where there is no cause for alarm."""
        room = self.limit - reading.log_state
        if room <= 0:
            return 0.0
        in_a_step = rate * float(sums.max())
        near_growth = reading.spectral_abscissa > -rate
        updates = room / in_a_step if in_a_step > 0 and near_growth else math.inf
        if updates <= _UPDATES_AHEAD:
            return updates
        own = earlier[-_TREND_READINGS:]
        pace = median_slope([(r.step, r.log_state) for r in own])
        left = room / pace if pace > 0 else math.inf
        used = reading.log_state / self.limit
        ahead = min(self.horizon, _SPANS_AHEAD * (own[-1].step - own[0].step))
        return left if used >= _NEAR or (used >= _CONCERNING and left <= ahead) else None


def median_slope(points: Sequence[tuple[int, float]]) -> float:
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
