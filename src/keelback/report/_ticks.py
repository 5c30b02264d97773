"""Ticks of Matplotlib's axes: one way of writing numbers on an axis, without an offset."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis

_PLAIN = (1e-4, 1e6)
"""Numbers from here to there are written out."""


def label_log_axis(axis: Axis) -> None:
    """Label the powers of ten of an axis, or 1, 2 and 5 times each where it has few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    if not 0 < low < high < math.inf:
        return
    powers = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
    if high / low < 4:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    elif powers < 3:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axis.set_major_locator(LogLocator(numticks=7))
    # Ticks at 1, 2 and 5 lie inside the view, so that these two decide how all are written.
    plain = _PLAIN[0] <= low and high < _PLAIN[1]
    axis.set_major_formatter(FuncFormatter(lambda v, _: _plainly(v) if plain else as_power(v)))
    axis.set_minor_formatter(NullFormatter())


def label_linear_axis(axis: Axis) -> None:
    """Write the numbers of an axis out; none stands apart as a factor of the others."""
    from matplotlib.ticker import FuncFormatter, ScalarFormatter

    if not isinstance(axis.get_major_formatter(), ScalarFormatter):
        return
    largest = max(map(abs, axis.get_view_interval()))
    if not math.isfinite(largest) or 1e-3 <= largest < 1e4:
        return
    plain = 1 <= largest < _PLAIN[1] * 10
    axis.set_major_formatter(FuncFormatter(lambda v, _: _plainly(v) if plain else as_power(v)))


def _plainly(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1 and value == round(value) else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def as_power(value: float) -> str:
    """`value` as a number below ten times a power of ten, as Matplotlib's mathematics."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    factor = f"{value / 10.0**power:.3g}"
    text = f"10^{{{power}}}" if factor == "1" else rf"{factor}\times10^{{{power}}}"
    return rf"$\mathdefault{{{text}}}$"
