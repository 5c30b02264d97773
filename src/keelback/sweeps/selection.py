"""The finished runs of a store as a table: columns, conditions on them, what differs, export."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelback.errors import InputError, JobError, nearest
from keelback.files import write_table
from keelback.sweeps.run import Scalar
from keelback.sweeps.store import Store, StoredRun

Row = dict[str, Scalar]
"""One run: a value for each column. Nested fields have dots: `task_settings.seq_len`."""

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|==?|<|>)\s*(.*?)\s*")
_FORMATS = (".csv", ".parquet", ".json")
_PROVENANCE = "made_by"


def row_of(run: StoredRun) -> Row:
    """Configuration, result and provenance of a run, under `name`."""
    flat = flatten(run.fields) | dict(run.summary)
    return {"name": run.name, **flat, **flatten(run.provenance, _PROVENANCE)}


def flatten(fields: Mapping[str, Any], prefix: str = "") -> Row:
    """Nested fields as one row, each under its path with dots."""
    row: Row = {}
    for key, value in fields.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            row |= flatten(value, name)
        elif isinstance(value, list):
            row |= flatten({str(i): item for i, item in enumerate(value)}, name)
        else:
            row[name] = value
    return row


def read_runs(store: Store) -> tuple[list[StoredRun], list[str]]:
    """The runs that can be read, and what is wrong with each of the others."""
    runs, problems = [], []
    for name in store.names():
        try:
            runs.append(store.get(name))
        except InputError as error:
            problems.append(str(error))
    return runs, problems


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The columns of all rows, in the order in which they first come."""
    return list(dict.fromkeys(column for row in rows for column in row))


def telling_columns(rows: Sequence[Row]) -> list[str]:
    """`name` and the columns in which the rows differ, provenance apart."""
    return ["name"] + [
        column
        for column in columns_of(rows)
        if column != "name"
        and not column.startswith(f"{_PROVENANCE}.")
        and (len(rows) == 1 or len({repr(row.get(column)) for row in rows}) > 1)
    ]


def resolve(column: str, columns: Sequence[str]) -> str:
    """The column of this name, or the only one that ends in it: `seq_len` for
    `task_settings.seq_len`.

    Raises:
        InputError: there is none, or there are several.
    """
    if column in columns:
        return column
    ending = [known for known in columns if known.endswith(f".{column}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise InputError(f"{column} is ambiguous; it may be any of {', '.join(ending)}")
    short = {known.rsplit(".", 1)[-1] for known in columns}
    raise InputError(f"no run has a column {column}{nearest(column, [*columns, *short])}")


@dataclass(frozen=True)
class Condition:
    """A comparison of one column with a value, which is written as text."""

    column: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read `COLUMN=VALUE`, or with !=, <, <=, > or >= in the place of =.

        Raises:
            InputError: it is not one.
        """
        match = _CONDITION.fullmatch(text)
        if match is None or not match[3]:
            raise InputError(
                f"{text!r} is no condition; write COLUMN=VALUE, or !=, <, <=, > or >= for ="
            )
        return cls(match[1], match[2].replace("==", "="), match[3])

    def require_sense(self, rows: Sequence[Row]) -> None:
        """Check that the value can be compared with what the column holds.

        Raises:
            InputError: a number with texts, a text with numbers, or anything with NaN.
        """
        held = [value for row in rows if (value := row.get(self.column)) is not None]
        value, ordered = _scalar(self.value), self.comparison in _ORDERS
        if value is None and not ordered:
            return
        numbers = bool(held) and all(isinstance(one, int | float) for one in held)
        texts = bool(held) and all(isinstance(one, str) for one in held)
        if isinstance(value, float) and math.isnan(value):
            problem = "nothing is equal to, above or below NaN"
        elif numbers and not isinstance(value, int | float):
            problem = f"{self.column} holds numbers, and {self.value!r} is none"
        elif texts and ordered and not isinstance(value, str):
            problem = f"{self.column} holds texts, which have no order with {self.value}"
        else:
            return
        raise InputError(f"{self.column}{self.comparison}{self.value} never holds: {problem}")

    def holds(self, row: Row) -> bool:
        """Whether the row meets it; order holds between numbers or between texts only."""
        found, value = row.get(self.column), _scalar(self.value)
        if self.comparison in ("=", "!="):
            same = found == value or (isinstance(found, str) and found == self.value)
            return same == (self.comparison == "=")
        try:
            return found is not None and _ORDERS[self.comparison](found, value)
        except TypeError:
            return False


def _scalar(text: str) -> Scalar:
    words: dict[str, Scalar] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def select(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that meet all conditions.

    Raises:
        InputError: a condition cannot be read, names no column, or can never hold.
    """
    columns, everything = columns_of(rows), rows
    for text in conditions:
        given = Condition.parse(text)
        found = Condition(resolve(given.column, columns), given.comparison, given.value)
        found.require_sense(everything)
        rows = [row for row in rows if found.holds(row)]
    return list(rows)


def sort(rows: Sequence[Row], by: str) -> list[Row]:
    """Rows by one column, from the largest down where it begins with `-`; empty cells last."""
    column = resolve(by.removeprefix("-"), columns_of(rows))
    full = [row for row in rows if row.get(column) is not None]
    empty = [row for row in rows if row.get(column) is None]
    numbers = all(isinstance(row[column], int | float) for row in full)

    def key(row: Row) -> Any:
        return row[column] if numbers else str(row[column])

    return sorted(full, key=key, reverse=by.startswith("-")) + empty


def differences(rows: Sequence[Row]) -> dict[str, dict[str, Scalar]]:
    """For each column in which the rows differ, provenance included, each run's value by name."""
    return {
        column: {str(row["name"]): row.get(column) for row in rows}
        for column in columns_of(rows)
        if column != "name" and len({repr(row.get(column)) for row in rows}) > 1
    }


def find_name(store: Store, beginning: str) -> str:
    """The name of the only run whose name begins so.

    Raises:
        InputError: there is none, or there are several; or the beginning is empty, as an unset
            variable of a shell is.
    """
    if not beginning.strip():
        raise InputError("the name of a run is empty; give its beginning at least")
    found = [name for name in store.names() if name.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{store.directory} has no run {beginning}")
    raise InputError(f"{beginning} begins the names of {len(found)} runs: {', '.join(found[:4])}")


def histories(runs: Sequence[StoredRun]) -> list[Row]:
    """The epochs of all runs, one after the other, each with its run's name."""
    return [{"name": run.name, **row} for run in runs for row in run.history()]


def export(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV, Parquet or JSON, whichever the name of the file says.

    Raises:
        InputError: it says none of them.
        JobError: the file cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise InputError(f"{path} names no format; it should end in {', '.join(_FORMATS)}")
    import polars as pl

    columns = columns_of(rows)
    table = pl.DataFrame(
        {column: _series(column, [row.get(column) for row in rows]) for column in columns}
    )
    try:
        write_table(path, table)
    except OSError as error:
        raise JobError(f"cannot write {path}: {error.strerror or error}") from None


def _series(name: str, values: Sequence[Scalar]) -> Any:
    """A column of one type: numbers stay numbers, a mixture becomes text."""
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        values = [None if value is None else str(value) for value in values]
    if kinds <= {float, int}:
        values = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
    return pl.Series(name, values, strict=False)
