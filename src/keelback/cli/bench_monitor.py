"""`keelback bench monitor`: what the training monitor foresees, and what it costs."""

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import print_json, provenance_of_command
from keelback.cli.bench import bench

if TYPE_CHECKING:
    from keelback.benchmarks.monitor_foresight import Training


@bench.command()
def monitor(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 3,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps between readings.")] = 1,
    cost: Annotated[bool, typer.Option("--cost", help="Instead: what it adds to a step.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Train models that diverge and models that do not, and count what was foreseen."""
    from keelback.benchmarks.monitor_foresight import foresight, overhead, summary_csv

    if cost:
        measured = overhead(every=50, repeats=15)
        found = {"provenance": provenance_of_command(), "rows": [measured]}
        line = (
            f"a reading every {measured['every']} steps adds {measured['overhead']:.1%} to a step"
        )
    else:
        found = foresight(range(first_seed, first_seed + seeds), every, _say)
        if out is not None:
            _write(out, found, summary_csv(found))
        line = (
            f"of {found['died']} trainings that died {found['foreseen']} were foreseen and "
            f"{found['survived_with_clipping']} survive with clipping; of {found['healthy']} "
            f"healthy ones {found['false_alarms']} had a false alarm"
        )
    if json:
        print_json(found)
    else:
        print(line)


def _write(out: Path, found: dict[str, Any], table: str) -> None:
    from keelback.experiments.store import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    document = json_format.dumps(
        {"provenance": provenance_of_command(), **found}, indent=1, allow_nan=False
    )
    write_atomically(out / "results.json", document)
    write_atomically(out / "foresight.csv", table)


def _say(one: "Training") -> None:
    died = "lived" if one.died_at is None else f"died at step {one.died_at}"
    warned = "no warning" if one.warned_at is None else f"warned at step {one.warned_at}"
    print(
        f"T = {one.seq_len}, s_A = {one.spectral_abscissa:+}, seed {one.seed}: {died}, {warned}",
        file=sys.stderr,
        flush=True,
    )
