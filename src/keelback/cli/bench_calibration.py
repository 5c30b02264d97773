"""`keelback bench calibration`: how often the audit's verdicts are right."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import print_measured, provenance_of_command
from keelback.cli.bench import bench
from keelback.cli.options import Json
from keelback.cli.progress import work_progress
from keelback.extras import require_extra


@bench.command()
def calibration(
    first_seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=10**6,
            help="Seed of the first of three trainings, a whole number.",
        ),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; by default none; e.g. calibration.")
    ] = None,
    json: Json = False,
) -> None:
    """Audit models whose faults are known, and count hits and false alarms."""
    from keelback.benchmarks.calibration import calibration as run_calibration
    from keelback.benchmarks.calibration import summary_csv

    require_extra("hf", "bench calibration", ["transformers"])
    with work_progress("bench calibration"):
        found = run_calibration(
            lambda name: print(name, file=sys.stderr, flush=True), first_seed=first_seed
        )
    if out is not None:
        _write(out, found, summary_csv(found))
    if json:
        print_measured(found)
        return
    print(f"{found['models']} models")
    for counted in found["claims"]:
        print(
            f"{counted['claim']}: said of {counted['hits']} of the {counted['true']} models that "
            f"it is true of, and of {counted['false_alarms']} of {counted['false']} others"
        )


def _write(out: Path, found: dict[str, Any], table: str) -> None:
    from keelback.files import write_atomically, write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", {"provenance": provenance_of_command(), **found})
    write_atomically(out / "calibration.csv", table)
