"""What is asked of the outcome of an experiment from outside before a report is made of it."""

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real

from keelback.errors import InputError, in_one_line
from keelback.outcome import (
    Bars,
    Claim,
    Column,
    Figure,
    Histogram,
    Line,
    Mark,
    Outcome,
    Panel,
    Table,
)


def checked_outcome(outcome: object) -> Outcome:
    """The outcome, if a report can be made of it.

    Raises:
        InputError: it is no `Outcome`, a part of it is of another class, the values of a chart do
            not belong together, or `numbers` are not JSON (NaN and infinity are not).
    """
    if not isinstance(outcome, Outcome):
        raise InputError(f"{outcome!r:.60} is no keelback.outcome.Outcome")
    for name in ("experiment", "title", "summary", "verdict"):
        _require(outcome, name, str)
    for name, kind in (("claims", Claim), ("figures", Figure), ("tables", Table), ("notes", str)):
        _require_all(outcome, name, kind)
    for table in outcome.tables:
        _require_all(table, "columns", Column)
        _require_all(table, "rows", Mapping)
    for figure in outcome.figures:
        _require_all(figure, "panels", Panel)
        for panel in figure.panels:
            _require_panel(panel, f"figure {figure.name}")
    try:
        json.dumps(dict(outcome.numbers), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"its numbers are not JSON: {in_one_line(error)}") from None
    return outcome


def _require(holder: object, name: str, kind: type) -> None:
    value = getattr(holder, name)
    if not isinstance(value, kind):
        raise InputError(
            f"{name} of its {type(holder).__name__} is {value!r:.60}, not a {kind.__name__}"
        )


def _require_all(holder: object, name: str, kind: type) -> None:
    values = getattr(holder, name)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InputError(f"{name} of its {type(holder).__name__} is {values!r:.60}, not a list")
    for value in values:
        if not isinstance(value, kind):
            raise InputError(
                f"{name} of its {type(holder).__name__} has {value!r:.60}, not a {kind.__name__}"
            )


def _require_panel(panel: Panel, where: str) -> None:
    for name, kind in (("lines", Line), ("histograms", Histogram), ("bars", Bars), ("marks", Mark)):
        _require_all(panel, name, kind)
    charts: list[Line | Bars] = [*panel.lines, *panel.bars]
    for chart in charts:
        for name in ("y", "lower", "upper"):
            values = getattr(chart, name)
            if values is not None and len(values) != len(chart.x):
                raise InputError(
                    f"{where}: {len(values)} values of {name} for {len(chart.x)} of x in "
                    f"{chart.label or 'a chart'!r}"
                )
        numbers = [
            value for name in ("y", "lower", "upper") for value in getattr(chart, name) or ()
        ]
        _require_numbers(numbers, where, chart.label)
    for histogram in panel.histograms:
        if len(histogram.edges) != len(histogram.counts) + 1:
            raise InputError(
                f"{where}: {len(histogram.edges)} edges for {len(histogram.counts)} counts in "
                f"{histogram.label!r}; there is one edge more than counts"
            )
        _require_numbers([*histogram.edges, *histogram.counts], where, histogram.label)
    if panel.heatmap is not None:
        map_ = panel.heatmap
        if len(map_.values) != len(map_.y) or any(len(row) != len(map_.x) for row in map_.values):
            raise InputError(
                f"{where}: a heatmap needs one row for each y and one value for each x"
            )


def _require_numbers(values: Sequence[object], where: str, label: str) -> None:
    for value in values:
        if value is None:
            continue
        if not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(f"{where}: {value!r:.60} in {label!r} is not a finite number, or None")
