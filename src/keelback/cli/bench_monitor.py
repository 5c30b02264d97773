"""`keelback bench monitor`: what the training monitor foresees, and what it costs."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark, run_into_folder
from keelback.cli.options import LARGEST_SEED, Json, OutFolder, refuse_beside

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
    out: OutFolder = None,
    json: Json = False,
) -> None:
    """Train models that diverge and models that do not, and count what was foreseen."""
    from keelback.benchmarks.monitor_foresight import benchmark, overhead_benchmark, summary_csv

    if cost:
        refuse_beside("--cost", {"out": out, "seeds": seeds, "first_seed": first_seed}, monitor)
        chosen = overhead_benchmark(every=50, repeats=15)
        run_benchmark("bench monitor", chosen, None, as_json=json, show=_show_cost)
    else:
        chosen = benchmark(range(first_seed, first_seed + seeds), _say)
        tables = {"foresight.csv": summary_csv}
        run_into_folder("bench monitor", chosen, out, tables, as_json=json, show=_show)


def _show_cost(result: Mapping[str, Any]) -> None:
    [row] = result["rows"]
    print(f"a reading every {row['every']} steps adds {row['overhead']:.1%} to a step")


def _show(result: Mapping[str, Any]) -> None:
    print("\n".join(_in_words(counts) for counts in result["families"]))


def _in_words(counts: dict[str, Any]) -> str:
    return (
        f"{counts['family']}: of {counts['died']} trainings that died {counts['foreseen']} were "
        f"foreseen and {counts['saved']} live with the monitor's action ({counts['action']}); of "
        f"{counts['healthy']} healthy ones {counts['false_alarms']} had a false alarm"
    )


def _say(one: "Training") -> None:
    died = "lived" if one.died_at is None else f"died at step {one.died_at}"
    warned = "no warning" if one.warned_at is None else f"warned at step {one.warned_at}"
    from keelback.benchmarks.monitor_foresight import in_words

    print(
        f"{one.family}, {in_words(one.setting)}, seed {one.seed}: {died}, {warned}",
        file=sys.stderr,
        flush=True,
    )
