"""Curves as drawings for the page: where each point lies, and the labels of the axes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keelback.errors import printable
from keelback.report._tables import format_cell
from keelback.watch._snapshot import Points, RunView, Snapshot, chosen_curves, counted

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 58, 8, 8, 40
CURVES = 6
_TICKS = 4
_LOG_FROM = 50.0
"""Largest over smallest value from which positive values are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Tick:
    """A label of an axis, and where it stands along it."""

    at: float
    text: str


@dataclass(frozen=True)
class DrawnCurve:
    """One run: its path as SVG has it, where it ends, and how it is to look."""

    title: str
    look: str
    path: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """The curves of all runs for one column."""

    name: str
    described: str
    curves: Sequence[DrawnCurve]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    logarithmic: bool


def charts_of(snapshot: Snapshot) -> list[Chart]:
    """A chart for each of the columns that say most."""
    return [_chart(snapshot, name) for name in chosen_curves(snapshot.runs, CURVES)]


def _chart(snapshot: Snapshot, name: str) -> Chart:
    runs = [(run, run.curves[name]) for run in snapshot.runs if run.curves.get(name)]
    xs = [x for _, points in runs for x, _ in points]
    ys = [y for _, points in runs for _, y in points]
    log = min(ys) > 0 and max(ys) / min(ys) >= _LOG_FROM
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log)
    order = {"finished": 0, "kept": 1, "diverged": 2, "under way": 3}
    return Chart(
        name,
        f"{name} by {snapshot.x_label}, {counted(len(runs), 'run')}: from {_said(min(ys))} to "
        f"{_said(max(ys))}",
        [
            _drawn(run, points, across, up)
            for run, points in sorted(runs, key=lambda own: order[own[0].state])
        ],
        across.ticks(),
        up.ticks(),
        log,
    )


def _drawn(run: RunView, points: Points, across: "_Axis", up: "_Axis") -> DrawnCurve:
    placed = [(across.place(x), up.place(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
    if len(placed) == 1:
        path += "h0"  # A round end makes a dot of it.
    setting = f" ({run.setting})" if run.setting else ""
    title = f"{run.name}{setting}, {run.state}: {_said(points[-1][1])}"
    return DrawnCurve(printable(title), run.state.replace(" ", "-"), path, placed[-1])


def _said(value: float) -> str:
    return format_cell(value, ".4g")


class _Axis:
    """Places values between two ends of a line, evenly or by their logarithm."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False):
        self._log, self._start, self._end = log, start, end
        self._low, self._high = self._scaled(low), self._scaled(high)
        if self._high - self._low <= 1e-12 * max(abs(self._low), abs(self._high)):
            room = abs(self._low) / 2 or 1.0
            self._low, self._high = self._low - room, self._high + room

    def _scaled(self, value: float) -> float:
        # Divided, for the difference of two numbers near the largest is infinite.
        return math.log10(value) if self._log else value / 4

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[Tick]:
        """Round values within the axis."""
        return [Tick(round(self.place(value), 1), _said(value)) for value in self._round_values()]

    def _round_values(self) -> Iterable[float]:
        if self._log:
            first, last = math.ceil(self._low), math.floor(self._high)
            return (10.0**power for power in range(first, last + 1, (last - first) // _TICKS + 1))
        low, high = 4 * self._low, 4 * self._high
        if not math.isfinite(high - low):
            return (value for value in (low, high) if math.isfinite(value))
        rough = (high - low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((m * power for m in (1, 2, 5, 10) if m * power >= rough), 10 * power)
        if not step or math.isinf(step):
            return (low, high)
        first, last = math.ceil(low / step), math.floor(high / step)
        return (n * step for n in range(first, last + 1))
