"""Tables: as files for programs, as text for the terminal and the page."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from rich.console import Group
from rich.table import Table as TerminalTable
from rich.text import Text

from keelback.errors import printable
from keelback.outcome import Column, Outcome, Scalar, Table
from keelback.report._files import distinct_stems, writable_directory, write_file
from keelback.report._geometry import visible

TERMINAL_ROWS = 40


def save_tables(outcome: Outcome, directory: str | os.PathLike[str]) -> list[Path]:
    """Write every table of `outcome` into `directory` as Parquet and CSV; return the paths.

    Files are named after the tables, columns after their keys. A column of booleans, of integers
    or of numbers keeps its type; any other becomes text. Raises `InputError` where the directory
    cannot be written to.

    Examples:
        >>> from keelback.outcome import Column, Outcome, Table
        >>> columns = [Column("test", "test accuracy")]
        >>> table = Table("scores", "Scores", columns, rows=[{"test": 0.91}])
        >>> outcome = Outcome("mine", "Mine", "One training.", tables=[table])
        >>> [path.name for path in save_tables(outcome, "tables")]
        ['scores.parquet', 'scores.csv']
    """
    folder = writable_directory(directory)
    paths: list[Path] = []
    for stem, table in zip(
        distinct_stems([t.name for t in outcome.tables]), outcome.tables, strict=True
    ):
        frame = data_frame(table)
        parquet = io.BytesIO()
        frame.write_parquet(parquet)
        paths.append(write_file(folder / f"{stem}.parquet", parquet.getvalue()))
        paths.append(write_file(folder / f"{stem}.csv", frame.write_csv().encode()))
    return paths


def data_frame(table: Table) -> pl.DataFrame:
    """A table as a data frame with one column a key, unformatted."""
    return pl.DataFrame(
        [
            _series(column.key, [row.get(column.key) for row in table.rows])
            for column in table.columns
        ]
    )


def _series(key: str, values: Sequence[Scalar]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pl.Series(key, values, dtype=pl.Boolean)
    if kinds == {int} and all(v is None or -(2**63) <= int(v) < 2**63 for v in values):
        return pl.Series(key, values, dtype=pl.Int64)
    if float in kinds and kinds <= {int, float}:
        return pl.Series(key, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    return pl.Series(key, [None if v is None else str(v) for v in values], dtype=pl.String)


def terminal_tables(outcome: Outcome) -> list[Group]:
    """The claims and the tables of `outcome` for a Rich console, normally one on stderr.

    A table of more than 40 rows shows its first 40 and says so. Nothing in the outcome is read as
    markup or reaches the terminal as a control character.

    Examples:
        >>> from keelback.outcome import Column, Outcome, Table
        >>> columns = [Column("test", "test accuracy")]
        >>> table = Table("scores", "Scores", columns, rows=[{"test": 0.91}])
        >>> len(terminal_tables(Outcome("mine", "Mine", "One training.", tables=[table])))
        1
    """
    shown = [_terminal_table(table) for table in outcome.tables]
    if outcome.claims:
        columns = [
            Column("statement", outcome.claims_title.removesuffix("s")),
            Column("verdict", "Verdict"),
            Column("evidence", "Evidence"),
        ]
        shown.insert(
            0, _terminal_table(Table("claims", "", columns, [vars(c) for c in outcome.claims]))
        )
    return shown


def _terminal_table(table: Table) -> Group:
    drawn = TerminalTable(box=None, pad_edge=False, header_style="dim")
    for column in table.columns:
        numeric = is_numeric(table, column)
        side: Literal["right", "left"] = "right" if numeric else "left"
        drawn.add_column(Text(printable(column.label)), justify=side, overflow="fold")
    for row in table.rows[:TERMINAL_ROWS]:
        drawn.add_row(*(Text(format_cell(row.get(c.key), c.spec)) for c in table.columns))
    left_out = len(table.rows) - TERMINAL_ROWS
    caption = f"{left_out} more rows not shown. {table.caption}" if left_out > 0 else table.caption
    around = [Text(printable(table.title), style="bold"), Text(printable(caption), style="dim")]
    return Group(*around[:1], drawn, *around[1:], "")


def is_numeric(table: Table, column: Column) -> bool:
    """Whether a column holds numbers and gaps only, and so stands flush right."""
    values = [row.get(column.key) for row in table.rows]
    return any(v is not None for v in values) and all(
        v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values
    )


def format_cell(value: Scalar, spec: str = "") -> str:
    """A value as a reader sees it; `spec` is used where it fits the value's type."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return visible(value)
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    value += 0  # no minus before a zero
    try:
        text = format(value, spec or ("" if isinstance(value, int) else ".4g"))
    except ValueError:
        text = f"{value:.4g}"
    return text.replace("-", "−")
