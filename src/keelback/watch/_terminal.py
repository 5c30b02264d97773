"""A snapshot on a terminal: tables, and each run's curve as a row of bars."""

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group as Parts
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from keelback.errors import printable
from keelback.progress import in_words
from keelback.report._tables import format_cell
from keelback.watch._snapshot import Points, RunView, Snapshot, chosen_curves

ROWS = 40
"""Rows of a table where nothing limits its height."""

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST_CURVE = 24
_LOG_FROM = 10.0
_FRAME = 14
"""Lines that headings, sentences and rules take."""
_STYLES = {"diverged": "red", "under way": "cyan", "problem": "red", "warning": "yellow"}


def render_terminal(snapshot: Snapshot, height: int | None = None) -> RenderableType:
    """A snapshot for a Rich console.

    Args:
        snapshot: what to show; of its texts nothing is read as markup.
        height: lines of the terminal, which it keeps to roughly; tables of 40 rows if not given.

    Examples:
        >>> from rich.console import Console
        >>> seen = Snapshot("out", "sweep", "finished", "1 run finished")
        >>> Console(width=60).print(render_terminal(seen))
        out: 1 run finished
    """
    runs = _runs(snapshot)
    groups = len(snapshot.groups) if len(snapshot.groups) > 1 else 0
    rows = ROWS
    if height is not None:
        wanted = [len(snapshot.plans), groups, len(snapshot.alarms)]
        room = max(6, height - _FRAME)
        rows = max(2, min(ROWS, (room - sum(min(n, room // 5) for n in wanted))))
    others = rows if height is None else max(1, (height - _FRAME) // 5)
    parts: list[RenderableType] = [
        Text.assemble((printable(snapshot.directory), "bold"), ": ", printable(snapshot.line))
    ]
    if snapshot.left:
        parts.append(Text(printable(snapshot.left)))
    if snapshot.alarms:
        parts += _alarms(snapshot, others)
    if snapshot.plans:
        parts.append(_plans(snapshot, others))
    if groups:
        parts.append(_groups(snapshot, others))
    if runs is not None:
        parts.append(runs if len(snapshot.runs) <= rows else _runs(snapshot, rows) or "")
    parts += [Text(printable(f"note: {note}"), style="dim") for note in snapshot.notes]
    return Parts(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if index == 0 else "right")
    return table


def _rest(table: Table, whole: int, shown: int) -> Table:
    if whole > shown:
        table.caption = Text(f"{whole - shown} more rows not shown", style="dim")
        table.caption_justify = "left"
    return table


def _plans(snapshot: Snapshot, rows: int) -> Table:
    table = _table("experiment", "planned", "finished", "under way", "survived", "time left")
    for plan in snapshot.plans[:rows]:
        counts = (plan.planned, plan.finished, plan.under_way, plan.survived)
        left = "–" if plan.seconds_left is None else in_words(plan.seconds_left)
        table.add_row(Text(printable(plan.name)), *map(str, counts), left)
    return _rest(table, len(snapshot.plans), rows)


def _groups(snapshot: Snapshot, rows: int) -> Table:
    scores = list(dict.fromkeys(name for group in snapshot.groups for name in group.scores))
    means = [f"mean {name}" for name in scores]
    table = _table("runs with", "planned", "finished", "under way", "survived", *means)
    for group in snapshot.groups[:rows]:
        counts = (group.planned, group.finished, group.under_way, group.survived)
        cells = [*counts, *(group.scores.get(name) for name in scores)]
        table.add_row(Text(printable(group.setting)), *map(format_cell, cells))
    return _rest(table, len(snapshot.groups), rows)


def _runs(snapshot: Snapshot, rows: int = ROWS) -> Table | None:
    if not snapshot.runs:
        return None
    runs = snapshot.runs[:rows]
    scores = list(dict.fromkeys(name for run in runs for name in run.scores))
    curves = chosen_curves(snapshot.runs, 1)
    heads = [f"{name} by {snapshot.x_label}" for name in curves]
    table = _table("run", snapshot.x_label, *scores, "state", *heads)
    for run in runs:
        cells = [run.epoch, *(run.scores.get(name) for name in scores)]
        table.add_row(
            _name(run),
            *map(format_cell, cells),
            Text(run.state, style=_STYLES.get(run.state, "")),
            *(_bars(run.curves.get(name, ())) for name in curves),
        )
    return _rest(table, len(snapshot.runs), len(runs))


def _name(run: RunView) -> Text:
    setting = f"  {printable(run.setting)}" if run.setting else ""
    return Text.assemble(printable(run.name), (setting, "dim"))


def _alarms(snapshot: Snapshot, rows: int) -> list[Text]:
    lines = [
        Text.assemble(
            (f"{alarm.weight}: ", _STYLES[alarm.weight]),
            printable(f"{alarm.where}: {alarm.message}"),
        )
        for alarm in snapshot.alarms[:rows]
    ]
    more = len(snapshot.alarms) - len(lines)
    return [*lines, *([Text(f"{more} more alarms not shown", style="dim")] if more else [])]


def _bars(points: Points) -> str:
    """The values at evenly spaced places, between the curve's own lowest and highest.

    By their logarithms where they are positive and differ by a factor of ten or more.
    """
    values = _thinned([value for _, value in points])
    if not values:
        return ""
    if min(values) > 0 and max(values) / min(values) >= _LOG_FROM:
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    if low == high:
        return _BARS[0] * len(values)
    # Halved, for the difference of two numbers near the largest is infinite.
    shares = [(value / 2 - low / 2) / (high / 2 - low / 2) for value in values]
    return "".join(_BARS[min(int(share * len(_BARS)), len(_BARS) - 1)] for share in shares)


def _thinned(values: Sequence[float]) -> Sequence[float]:
    if len(values) <= _WIDEST_CURVE:
        return values
    return [values[i * (len(values) - 1) // (_WIDEST_CURVE - 1)] for i in range(_WIDEST_CURVE)]
