"""`keelback reproduce`, `report` and `list`: experiments by name and what they left behind."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import app, command_line, print_json, provenance_of_command
from keelback.cli.executors import (
    Address,
    CpusPerJob,
    ExecutorName,
    GpusPerJob,
    Workers,
    make_executor,
)
from keelback.cli.options import DataPath, Json, TokenizerFile
from keelback.cli.terminal import console
from keelback.errors import printable


@app.command()
def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(
            help="Experiment, a name from `keelback list`, or `all`; e.g. length-independence."
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="Task: a name from `keelback list`, or a file that registers one; the "
            "experiment's own by default; e.g. majority."
        ),
    ] = None,
    seq_len: Annotated[
        list[str] | None,
        typer.Option(
            help="Sequence lengths in tokens, separated by commas; may be repeated; the paper's "
            "by default; e.g. 50,100."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of seeds, from 1 up; the paper's by default; e.g. 5."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a smaller version, for a first look.")
    ] = False,
    data: DataPath = None,
    tokenizer: TokenizerFile = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another setting of the experiment, NAME=VALUE; may be repeated; by default "
            "none; e.g. epochs=5.",
        ),
    ] = None,
    executor: ExecutorName = "local",
    workers: Workers = None,
    address: Address = None,
    cpus_per_job: CpusPerJob = None,
    gpus_per_job: GpusPerJob = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the sweep, made if absent; runs/EXPERIMENT-... by default; e.g. "
            "my-sweep."
        ),
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option(help="Folder of the report; OUT/report by default; e.g. my-report."),
    ] = None,
    draw: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write a report, or only store the runs."),
    ] = True,
    json: Json = False,
) -> None:
    """Run an experiment and write its report; runs that are finished are not run again.

    `all` runs every experiment on every task whose data are available, into one directory. On a
    machine without Matplotlib `--no-report` only trains; `keelback report` draws on another one.
    """
    from keelback.cli.progress import sweep_progress
    from keelback.data import task_name
    from keelback.errors import InputError, JobError
    from keelback.experiments import everything, get_experiment
    from keelback.experiments.requests import save_request
    from keelback.extras import require_extra
    from keelback.report._files import require_own_page
    from keelback.sweeps import Store, sweep

    if report_to is not None and not draw:
        raise InputError("--report-to says where the report goes, and --no-report writes none")
    if draw:
        require_extra("report", "the report (--no-report only stores the runs)")
    given: dict[str, Any] = {
        "task": task,
        "seeds": seeds,
        "quick": quick or None,
        "data": data and data.resolve(),
        "tokenizer": tokenizer and tokenizer.resolve(),
    }
    given["seq_len"] = _lengths(seq_len)
    given = {name: value for name, value in given.items() if value is not None}
    given |= named_settings(setting or [], given)
    if "task" in given:
        given["task"] = task_name(given["task"])
    skipped: list[str] = []
    if experiment == "all":
        planned, skipped = everything(given)
        directory = out or Path("runs") / ("all-quick" if quick else "all")
    else:
        chosen = get_experiment(experiment)
        settings = chosen.settings(given)
        planned = [(chosen, settings)]
        directory = out or Path("runs") / f"{experiment}-{settings.label}"
    needed = [
        (chosen, settings, chosen.planned(settings, here=executor == "local"))
        for chosen, settings in planned
    ]
    where = make_executor(executor, workers, address, cpus_per_job, gpus_per_job)
    if draw:
        require_own_page(report_to or directory / "report")
    outcomes, failures = [], []
    with Store.created(directory) as store:
        for chosen, settings, runs in needed:
            save_request(store, chosen.name, settings, runs, command_line())
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
    if not draw:
        _tell_stored(directory, sum(len(runs) for _, _, runs in needed), skipped)
    if json:
        numbers = {outcome.experiment: dict(outcome.numbers) for outcome in outcomes}
        print_json(numbers if experiment == "all" else dict(outcomes[0].numbers))


@app.command()
def report(
    directory: Annotated[
        Path,
        typer.Argument(help="Folder of a sweep, as `keelback reproduce` leaves it; e.g. runs/all."),
    ],
    report_to: Annotated[
        Path | None,
        typer.Option(help="Folder of the report; DIRECTORY/report by default; e.g. my-report."),
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
    """List experiments, tasks, models, and the kinds of layers that audits read."""
    from keelback.audit.adapters import ADAPTERS, REGISTERED
    from keelback.data import TASKS
    from keelback.experiments import EXPERIMENTS
    from keelback.models import MODELS

    problems = [
        problem
        for registry in (EXPERIMENTS, TASKS, MODELS, REGISTERED)
        for problem in registry.load_all()
    ]
    experiments = {name: part.summary for name, part in EXPERIMENTS.registered().items()}
    names = {
        "tasks": sorted(TASKS.registered()),
        "models": sorted(MODELS.registered()),
        "adapters": sorted({a.kind for a in (*ADAPTERS, *REGISTERED.registered().values())}),
    }
    if json:
        print_json({"experiments": experiments, **names})
    else:
        print("experiments")
        for name, summary in experiments.items():
            print(f"  {name:22} {summary}")
        for heading, found in names.items():
            print(f"{heading}\n  {', '.join(found)}")
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)


def _tell_stored(directory: Path, runs: int, skipped: Sequence[str]) -> None:
    for sentence in skipped:
        print(printable(sentence), file=sys.stderr)
    print(f"{runs} runs stored in {directory}", file=sys.stderr)
    print(f"report: none; keelback report {shlex.quote(str(directory))} writes it", file=sys.stderr)


def _lengths(given: list[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [part.strip() for value in given for part in value.split(",")]


def named_settings(pairs: Sequence[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Settings that are given as NAME=VALUE.

    `options` are the values of options that are settings too, by their names.

    Raises:
        InputError: one is not, or is given twice.
    """
    from keelback.cli.options import require_once
    from keelback.errors import InputError

    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--set {pair!r} is not NAME=VALUE")
    require_once(pairs, options)
    return dict(pair.split("=", 1) for pair in pairs)


def _write(
    folder: Path, outcomes: list[Any], made_by: list[Any], skipped: Sequence[str] = ()
) -> None:
    """The page, figures, tables and `results.json` of the outcomes; the tables on stderr too."""

    from keelback.cli.progress import work_progress
    from keelback.files import adding_to, write_json
    from keelback.report import terminal_tables, write_report
    from keelback.report._files import made_writable, require_own_page
    from keelback.sweeps import provenance_of_runs

    require_own_page(folder)
    record = provenance_of_command()
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
    with work_progress("report"), made_writable(folder), adding_to(folder) as partial:
        page = folder / write_report(outcomes, partial, record).name
        write_json(partial / "results.json", document)
    terminal = console(stderr=True)
    for outcome in outcomes:
        for table in terminal_tables(outcome):
            terminal.print(table)
        for note in outcome.notes:
            terminal.print(f"note: {printable(note)}", markup=False)
    for sentence in skipped:
        terminal.print(printable(sentence), soft_wrap=True, markup=False)
    terminal.print(f"report: {printable(str(page))}", soft_wrap=True, markup=False)
