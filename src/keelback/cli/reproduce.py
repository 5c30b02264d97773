"""`keelback reproduce`, `report` and `list`: experiments by name and what they left behind."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import app, print_json


@app.command()
def reproduce(
    experiment: Annotated[str, typer.Argument(help="An experiment; `keelback list` names them.")],
    task: Annotated[str | None, typer.Option(help="The task.")] = None,
    seq_len: Annotated[
        list[str] | None,
        typer.Option(help="Sequence lengths, separated by commas or given again and again."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds, from 1 up.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller version.")] = False,
    data: Annotated[Path | None, typer.Option(help="Where a loaded task's data lie.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Vocabulary file of a text task.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another setting of the experiment, NAME=VALUE."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the sweep.")] = None,
    report_to: Annotated[
        Path | None, typer.Option(help="Directory of the report; OUT/report by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Run an experiment, or what of it the directory still lacks, and write its report."""
    from keelback.cli.progress import sweep_progress
    from keelback.errors import InputError
    from keelback.experiments import Store, get_experiment, sweep
    from keelback.experiments.requests import save_request

    chosen = get_experiment(experiment)
    given: dict[str, Any] = {
        "task": task,
        "seeds": seeds,
        "quick": quick or None,
        "data": data and data.resolve(),
        "tokenizer": tokenizer and tokenizer.resolve(),
    }
    given["seq_len"] = _lengths(seq_len)
    given = {name: value for name, value in given.items() if value is not None}
    settings = chosen.settings(given | _named(setting or []))
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be 1 or more")
    runs = chosen.runs(settings)
    directory = out or Path("runs") / f"{experiment}-{settings.label}"
    store = Store.create(directory)
    save_request(store, experiment, settings, shlex.join(["keelback", *sys.argv[1:]]))
    with sweep_progress(f"{experiment} {settings.label}") as on_progress:
        results = sweep(runs, store, workers=workers, on_progress=on_progress)
    outcome = chosen.outcome(settings, results)
    _write(report_to or directory / "report", [outcome])
    if json:
        print_json(dict(outcome.numbers))


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="The directory of a sweep.")],
    report_to: Annotated[
        Path | None, typer.Option(help="Directory of the report; DIRECTORY/report by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Write the report of a sweep from what it has stored; nothing is trained."""
    from keelback.errors import InputError
    from keelback.experiments import Store
    from keelback.experiments.requests import outcomes

    store = Store.open(directory)
    found = outcomes(store)
    if not found:
        raise InputError(f"{directory} holds runs but no experiment; nothing says how to read them")
    _write(report_to or directory / "report", found)
    if json:
        print_json({outcome.experiment: dict(outcome.numbers) for outcome in found})


@app.command(name="list")
def list_names(
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List experiments, tasks and models."""
    from keelback.data import TASKS
    from keelback.experiments import EXPERIMENTS
    from keelback.models import MODELS

    if json:
        print_json(
            {
                "experiments": {name: found.summary for name, found in EXPERIMENTS.items()},
                "tasks": sorted(TASKS),
                "models": sorted(MODELS),
            }
        )
        return
    print("experiments")
    for name, found in EXPERIMENTS.items():
        print(f"  {name:22} {found.summary}")
    print("tasks\n  " + ", ".join(sorted(TASKS)))
    print("models\n  " + ", ".join(sorted(MODELS)))


def _lengths(given: list[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [part.strip() for value in given for part in value.split(",")]


def _named(pairs: list[str]) -> dict[str, str]:
    from keelback.errors import InputError

    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--set {pair!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _write(folder: Path, outcomes: list[Any]) -> None:
    """The page, figures, tables and `results.json` of the outcomes; the tables on stderr too."""
    import json

    from rich.console import Console

    from keelback.experiments import provenance
    from keelback.experiments.store import write_atomically
    from keelback.report import terminal_tables, write_report

    record = provenance(command=shlex.join(["keelback", *sys.argv[1:]]))
    page = write_report(outcomes, folder, record)
    numbers = {outcome.experiment: dict(outcome.numbers) for outcome in outcomes}
    document = {"provenance": record, "outcomes": numbers}
    write_atomically(folder / "results.json", json.dumps(document, indent=1, allow_nan=False))
    console = Console(stderr=True)
    for outcome in outcomes:
        for table in terminal_tables(outcome):
            console.print(table)
        for note in outcome.notes:
            console.print(f"note: {note}", markup=False)
    console.print(f"report: {page}", soft_wrap=True, markup=False)
