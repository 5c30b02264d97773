"""`keelback runs`: what a sweep left behind, listed, filtered, compared, exported, run again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelback.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from keelback.sweeps import Run, Store, StoredRun
    from keelback.sweeps.selection import Row

_WIDTH_OF_FILES = 10_000


@app.command()
def runs(
    directory: Annotated[Path, typer.Argument(help="The directory of a sweep.")],
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only runs with COLUMN=VALUE (or !=, <, <=, >, >=); may be repeated."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns to show, separated by commas, or `all`.")
    ] = None,
    sort_by: Annotated[
        str | None, typer.Option("--sort", help="A column; -COLUMN from the largest down.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Instead: where the runs of these names differ; repeat it."),
    ] = None,
    export_to: Annotated[
        Path | None,
        typer.Option("--export", help="Write the runs to a .csv, .parquet or .json file."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Export a row an epoch instead of a row a run.")
    ] = False,
    delete: Annotated[
        list[str] | None, typer.Option(help="Delete the run of this name; may be repeated.")
    ] = None,
    rerun: Annotated[
        list[str] | None, typer.Option(help="Execute the run of this name again; repeat it.")
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
    rows = sort(rows, sort_by) if sort_by else rows
    if export_to is not None:
        by_name = {run.name: run for run in found}
        kept = [by_name[str(row["name"])] for row in rows]
        export(histories(kept) if history else rows, export_to)
        print(f"{len(rows)} runs: {export_to}", file=sys.stderr)
    if json:
        print_json(rows)
    elif export_to is None:
        _print_table(rows, _chosen_columns(rows, columns))


def _change(store: "Store", delete: Sequence[str], rerun: Sequence[str], json: bool) -> None:
    from keelback.sweeps.selection import find_name

    doomed = [find_name(store, name) for name in delete]
    again = [store.get(find_name(store, name)) for name in rerun]
    fresh = [_as_run(stored) for stored in again]
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


def _as_run(stored: "StoredRun") -> "Run":
    """The run that was stored; raises where this version reads its configuration otherwise."""
    from keelback.errors import InputError
    from keelback.sweeps.run import run_from_fields

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
    from rich.console import Console
    from rich.table import Table

    last = [column.rsplit(".", 1)[-1] for column in columns]
    heads = [
        short if last.count(short) == 1 else column
        for column, short in zip(columns, last, strict=True)
    ]
    table = Table(*heads, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES).print(table)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
