"""`keelback runs`: what a sweep left behind, listed, filtered, compared, exported, run again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelback.cli.app import app, print_json
from keelback.cli.options import Json
from keelback.cli.terminal import console
from keelback.errors import printable

if TYPE_CHECKING:
    from keelback.sweeps import Run, Store, StoredRun
    from keelback.sweeps.selection import Row

_WIDTH_OF_FILES = 10_000


@app.command()
def runs(
    directory: Annotated[
        Path,
        typer.Argument(help="Folder of a sweep, as `keelback reproduce` leaves it; e.g. runs/all."),
    ],
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only runs with COLUMN=VALUE (or !=, <, <=, >, >=); may be repeated; by default "
            "all runs; e.g. seq_len=100."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Columns to show, separated by commas, or `all`; by default those in which the "
            "runs differ; e.g. seed,test_accuracy."
        ),
    ] = None,
    sort_by: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="Column to sort by, -COLUMN for the largest first; by default the runs' names; "
            "e.g. -test_accuracy.",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a run to compare, given twice or more: where these runs differ is shown "
            "instead of the list; by default none; e.g. 3fa1."
        ),
    ] = None,
    export_to: Annotated[
        Path | None,
        typer.Option(
            "--export",
            help="File to write the runs to, .csv, .parquet or .json; by default none; e.g. "
            "runs.csv.",
        ),
    ] = None,
    history: Annotated[
        bool,
        typer.Option("--history", help="Export one row per epoch instead of one row per run."),
    ] = False,
    delete: Annotated[
        list[str] | None,
        typer.Option(help="Name of a run to delete; may be repeated; by default none; e.g. 3fa1."),
    ] = None,
    rerun: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a run to execute again; may be repeated; by default none; e.g. 3fa1."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the finished runs of a sweep, with the columns in which they differ.

    A run may be named by the beginning of its name, and a column by its last part: `seq_len` for
    `task_settings.seq_len`.
    """
    import sys

    from keelback.sweeps import Store
    from keelback.sweeps.selection import (
        export,
        find_name,
        histories,
        read_runs,
        row_of,
        select,
        sort,
    )

    _refuse_ignored(
        {
            "--delete": delete,
            "--rerun": rerun,
            "--compare": compare,
            "--where": where,
            "--sort": sort_by,
            "--export": export_to,
            "--history": history,
            "--columns": columns,
            "--json": json,
        }
    )
    store = Store.open(directory)
    if delete or rerun:
        _change(store, delete or [], rerun or [], json)
        return
    found, problems = read_runs(store)
    for problem in problems:
        print(f"damaged: {problem}", file=sys.stderr)
    if compare:
        _compare(store, [find_name(store, name) for name in compare], json)
        return
    rows = select([row_of(run) for run in found], where or [])
    rows = rows if sort_by is None else sort(rows, sort_by)
    if export_to is not None:
        by_name = {run.name: run for run in found}
        kept = [by_name[str(row["name"])] for row in rows]
        export(histories(kept) if history else rows, export_to)
        print(f"{len(rows)} runs: {export_to}", file=sys.stderr)
    if json:
        print_json(rows)
    elif export_to is None:
        _print_table(rows, _chosen_columns(rows, columns))


_WITHOUT = {
    "--delete": ("--compare", "--where", "--sort", "--export", "--history", "--columns"),
    "--rerun": ("--compare", "--where", "--sort", "--export", "--history", "--columns"),
    "--compare": ("--where", "--sort", "--export", "--history", "--columns"),
    "--export": ("--columns",),
    "--json": ("--columns",),
}
"""What the options of the second column would not change beside that of the first."""


def _refuse_ignored(given: Mapping[str, object]) -> None:
    """Check that no option is given that would have no effect.

    Raises:
        InputError: one is.
    """
    from keelback.errors import InputError

    there = [option for option, value in given.items() if value not in (None, False, [])]
    for option in there:
        for idle in _WITHOUT.get(option, ()):
            if idle in there:
                raise InputError(f"{idle} has no effect beside {option}; leave one of them out")
    if "--history" in there and "--export" not in there:
        raise InputError("--history is about what --export writes; add --export FILE")


def _change(store: "Store", delete: Sequence[str], rerun: Sequence[str], json: bool) -> None:
    from keelback.sweeps.selection import find_name

    doomed = [find_name(store, name) for name in delete]
    again = [store.get(find_name(store, name)) for name in rerun]
    fresh = [_as_run(store, stored) for stored in again]
    for name in doomed + [stored.name for stored in again]:
        store.delete(name)
    if fresh:
        from keelback.cli.progress import sweep_progress
        from keelback.sweeps import sweep

        with sweep_progress(f"running {len(fresh)} again") as on_progress:
            sweep(fresh, store, on_progress=on_progress)
    changed = {"deleted": doomed, "executed": [run.name for run in fresh]}
    if json:
        print_json(changed)
        return
    for what, names in changed.items():
        for name in names:
            print(f"{what} {name}")


def _as_run(store: "Store", stored: "StoredRun") -> "Run":
    """The run that was stored; raises where this version reads its configuration otherwise."""
    from keelback.errors import InputError
    from keelback.experiments import EXPERIMENTS
    from keelback.sweeps.run import run_from_fields

    store.require_plugins(stored.fields.get("plugins", {}))
    EXPERIMENTS.load_all()  # They bring kinds of runs of their own.
    run = run_from_fields({**stored.fields, **stored.circumstances})
    if run.name != stored.name:
        raise InputError(
            f"run {stored.name} cannot be executed by this version, which reads its configuration "
            f"as run {run.name}"
        )
    return run


def _compare(store: "Store", names: Sequence[str], json: bool) -> None:
    from keelback.errors import InputError
    from keelback.sweeps.selection import differences, row_of

    if len(set(names)) < 2:
        raise InputError("--compare needs two runs or more: --compare NAME --compare NAME")
    table = differences([row_of(store.get(name)) for name in names])
    if json:
        print_json(table)
        return
    rows: list[Row] = [{"column": column, **values} for column, values in table.items()]
    _print_table(rows, ["column", *names])


def _chosen_columns(rows: Sequence["Row"], columns: str | None) -> list[str]:
    from keelback.sweeps.selection import columns_of, resolve, telling_columns

    if columns is None:
        return telling_columns(rows)
    known = columns_of(rows)
    if columns == "all":
        return known
    return ["name"] + [resolve(name.strip(), known) for name in columns.split(",")]


def _print_table(rows: Sequence["Row"], columns: Sequence[str]) -> None:
    import sys

    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    last = [column.rsplit(".", 1)[-1] for column in columns]
    heads = [
        short if last.count(short) == 1 else column
        for column, short in zip(columns, last, strict=True)
    ]
    table = Table(*(escape(printable(head)) for head in heads), box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(_text(row.get(column))) for column in columns))
    console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES).print(table)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else printable(str(value))
