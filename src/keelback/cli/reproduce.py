"""`keelback reproduce`, `report` and `list`: experiments by name and what they left behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import Json, app, command_line, print_json, provenance_of_command
from keelback.cli.executors import (
    Address,
    CpusPerJob,
    ExecutorName,
    GpusPerJob,
    Workers,
    make_executor,
)


@app.command()
def reproduce(
    experiment: Annotated[
        str, typer.Argument(help="An experiment (`keelback list` names them), or `all`.")
    ],
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
    executor: ExecutorName = "local",
    workers: Workers = None,
    address: Address = None,
    cpus_per_job: CpusPerJob = None,
    gpus_per_job: GpusPerJob = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the sweep.")] = None,
    report_to: Annotated[
        Path | None, typer.Option(help="Directory of the report; OUT/report by default.")
    ] = None,
    draw: Annotated[
        bool, typer.Option("--report/--no-report", help="Write a report, or store runs only.")
    ] = True,
    json: Json = False,
) -> None:
    """Run an experiment, or what of it the directory still lacks, and write its report.

    `all` runs every experiment on every task whose data can be had, into one directory. Where
    nothing can be drawn, `--no-report` trains; `keelback report` then draws it elsewhere.
    """
    from keelback.cli.progress import sweep_progress
    from keelback.errors import JobError
    from keelback.experiments import everything, get_experiment
    from keelback.experiments.requests import save_request
    from keelback.sweeps import Store, sweep

    given: dict[str, Any] = {
        "task": task,
        "seeds": seeds,
        "quick": quick or None,
        "data": data and data.resolve(),
        "tokenizer": tokenizer and tokenizer.resolve(),
    }
    given["seq_len"] = _lengths(seq_len)
    given = {name: value for name, value in given.items() if value is not None}
    given |= _named(setting or [])
    skipped: list[str] = []
    if experiment == "all":
        planned, skipped = everything(given)
        directory = out or Path("runs") / ("all-quick" if quick else "all")
    else:
        chosen = get_experiment(experiment)
        settings = chosen.settings(given)
        planned = [(chosen, settings)]
        directory = out or Path("runs") / f"{experiment}-{settings.label}"
    needed = [(chosen, settings, chosen.runs(settings)) for chosen, settings in planned]
    where = make_executor(executor, workers, address, cpus_per_job, gpus_per_job)
    store = Store.create(directory)
    outcomes, failures = [], []
    for chosen, settings, runs in needed:
        save_request(store, chosen.name, settings, command_line())
        with sweep_progress(f"{chosen.name} {settings.label}") as on_progress:
            try:
                results = sweep(runs, store, executor=where, on_progress=on_progress)
            except JobError as error:
                failures.append(f"{chosen.name} {settings.label}: {error}")
                continue
        outcomes.append(chosen.outcome(settings, results))
    if outcomes and draw:
        made_by = [
            store.get(run.name).provenance for _, _, runs in needed for run in runs if run in store
        ]
        _write(report_to or directory / "report", outcomes, made_by, skipped)
    if failures:
        raise JobError("; ".join(failures))
    if json:
        numbers = {outcome.experiment: dict(outcome.numbers) for outcome in outcomes}
        print_json(numbers if experiment == "all" else dict(outcomes[0].numbers))


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="The directory of a sweep.")],
    report_to: Annotated[
        Path | None, typer.Option(help="Directory of the report; DIRECTORY/report by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the report of a sweep from what it has stored; nothing is trained."""
    from keelback.errors import InputError
    from keelback.experiments.requests import outcomes
    from keelback.sweeps import Store

    store = Store.open(directory)
    found = outcomes(store)
    if not found:
        raise InputError(f"{directory} holds runs but no experiment; nothing says how to read them")
    made_by = [run.provenance for run in store]
    _write(report_to or directory / "report", found, made_by)
    if json:
        print_json({outcome.experiment: dict(outcome.numbers) for outcome in found})


@app.command(name="list")
def list_names(
    json: Json = False,
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


def _write(
    folder: Path, outcomes: list[Any], made_by: list[Any], skipped: Sequence[str] = ()
) -> None:
    """The page, figures, tables and `results.json` of the outcomes; the tables on stderr too."""
    from rich.console import Console

    from keelback.files import write_json
    from keelback.report import terminal_tables, write_report
    from keelback.sweeps import provenance_of_runs

    record = provenance_of_command()
    page = write_report(outcomes, folder, record)
    document = {
        "provenance": record,
        "runs": provenance_of_runs(made_by),
        "outcomes": {outcome.experiment: dict(outcome.numbers) for outcome in outcomes},
        "claims": {
            outcome.experiment: [vars(claim) for claim in outcome.claims] for outcome in outcomes
        },
        "notes": {outcome.experiment: list(outcome.notes) for outcome in outcomes},
        "skipped": list(skipped),
    }
    write_json(folder / "results.json", document)
    console = Console(stderr=True)
    for outcome in outcomes:
        for table in terminal_tables(outcome):
            console.print(table)
        for note in outcome.notes:
            console.print(f"note: {note}", markup=False)
    for sentence in skipped:
        console.print(sentence, soft_wrap=True, markup=False)
    console.print(f"report: {page}", soft_wrap=True, markup=False)
