"""The marks of a panel in Matplotlib: lines across it, their labels outside, not over data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keelback.outcome import Panel
from keelback.report._geometry import placed_marks, stands_sideways
from keelback.report._wrapping import NOTE, literal, width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


def draw_marks(panel: Panel, ax: Axes, size: tuple[float, float], color: str) -> int:
    """Draw the marks of a panel of `size` inches; return the rows of labels above it."""
    sideways = stands_sideways(panel)
    upright: list[tuple[float, str]] = []
    level: list[tuple[float, str]] = []
    for mark in placed_marks(panel):
        stands = (mark.axis == "x") != sideways
        (ax.axvline if stands else ax.axhline)(
            mark.at, color=color, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1.5
        )
        (upright if stands else level).append((mark.at, mark.label))
    _write_beside([mark for mark in level if mark[1]], ax, size[1], color)
    return _write_above([mark for mark in upright if mark[1]], ax, size[0], color)


def _write_above(marks: Sequence[tuple[float, str]], ax: Axes, inches: float, color: str) -> int:
    """Labels over the axes, in rows where they would touch; return the number of rows."""
    ends: list[float] = []
    for at, label in sorted(marks):
        text = literal(label, 40)
        long = width(text, NOTE) / inches
        left = min(max(_share(ax.xaxis, at) - long / 2, 0.0), max(1 - long, 0.0))
        row = next((row for row, end in enumerate(ends) if end < left), len(ends))
        ends[row : row + 1] = [left + long + 0.03]
        ax.annotate(
            text,
            (left, 1),
            (0, 2 + 9 * row),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=NOTE,
            color=color,
        )
    return len(ends)


def _write_beside(marks: Sequence[tuple[float, str]], ax: Axes, inches: float, color: str) -> None:
    """Labels right of the axes, those that would touch pushed up."""
    high = (inches - 0.3) * 72
    reached = -math.inf
    for at, label in sorted(marks, key=lambda mark: _share(ax.yaxis, mark[0])):
        lines = wrapped(label, 0.8, NOTE, longest=60)
        place, room = _share(ax.yaxis, at) * high, len(lines) * NOTE * 1.25
        shift = max(reached - (place - room / 2), 0.0)
        reached = place + shift + room / 2
        ax.annotate(
            "\n".join(lines),
            (1, at),
            (3, shift),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=NOTE,
            color=color,
        )


def _share(axis: Axis, at: float) -> float:
    """Where `at` lies between the lower and the upper end of an axis, on its scale."""
    ends = axis.get_view_interval()
    low, place, high = axis.get_transform().transform([ends[0], at, ends[1]])
    return float((place - low) / (high - low)) if high != low else 0.5
