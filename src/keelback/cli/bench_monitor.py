"""`keelback bench monitor`: what the training monitor foresees, and what it costs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import print_measured, provenance_of_command
from keelback.cli.bench import bench
from keelback.cli.options import LARGEST_SEED, Json, refuse_beside
from keelback.cli.progress import work_progress

if TYPE_CHECKING:
    from keelback.benchmarks.monitor_foresight import Training


@bench.command()
def monitor(
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of trainings of each kind.")
    ] = 3,
    first_seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed, a whole number, to count up from.")
    ] = 0,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Measure instead the time that the monitor adds to a step."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; by default none; e.g. foresight.")
    ] = None,
    json: Json = False,
) -> None:
    """Train models that diverge and models that do not, and count what was foreseen."""
    from keelback.benchmarks.monitor_foresight import foresight, overhead, summary_csv

    found: dict[str, Any]
    if cost:
        refuse_beside("--cost", {"out": out, "seeds": seeds, "first_seed": first_seed}, monitor)
        with work_progress("bench monitor"):
            measured = overhead(every=50, repeats=15)
        found = {"rows": [measured]}
        line = (
            f"a reading every {measured['every']} steps adds {measured['overhead']:.1%} to a step"
        )
    else:
        with work_progress("bench monitor"):
            found = foresight(range(first_seed, first_seed + seeds), _say)
        if out is not None:
            _write(out, found, summary_csv(found))
        line = "\n".join(_in_words(counts) for counts in found["families"])
    if json:
        print_measured(found)
    else:
        print(line)


def _write(out: Path, found: dict[str, Any], table: str) -> None:
    from keelback.files import adding_to, made, write_atomically, write_json

    with made(out), adding_to(out) as partial:
        write_json(partial / "results.json", {"provenance": provenance_of_command(), **found})
        write_atomically(partial / "foresight.csv", table)


def _in_words(counts: dict[str, Any]) -> str:
    return (
        f"{counts['family']}: of {counts['died']} trainings that died {counts['foreseen']} were "
        f"foreseen and {counts['saved']} live with the monitor's action ({counts['action']}); of "
        f"{counts['healthy']} healthy ones {counts['false_alarms']} had a false alarm"
    )


def _say(one: "Training") -> None:
    died = "lived" if one.died_at is None else f"died at step {one.died_at}"
    warned = "no warning" if one.warned_at is None else f"warned at step {one.warned_at}"
    setting = ", ".join(f"{name} {value}" for name, value in one.setting.items())
    print(
        f"{one.family}, {setting}, seed {one.seed}: {died}, {warned}",
        file=sys.stderr,
        flush=True,
    )
