"""`keelback bench sweep`: the runner and its replica axis against one training after another."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Json, OutFile
from keelback.memory import require_memory

_BYTES_OF_RUN = 10_000.0


@bench.command()
def sweep(
    seq_len: Annotated[
        str | None,
        typer.Option(
            help="Sequence lengths in tokens, separated by commas; by default the paper's 16; "
            "e.g. 50,100."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds at each length.")] = 5,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs; by default the paper's 40; e.g. 5.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes; one per core by default; e.g. 4."),
    ] = None,
    empty_runs: Annotated[
        int, typer.Option(min=1, help="Number of runs that do nothing, for the runner's own cost.")
    ] = 10_000,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Time the Majority sweep beside the same trainings one after the other.

    Both alternatives are timed on a part of the trainings and extrapolated; `extrapolated` says
    from what.
    """
    from keelback.benchmarks.sweep_speed import benchmark

    lengths = None if seq_len is None else seq_len.split(",")
    require_memory(_BYTES_OF_RUN * empty_runs, f"{empty_runs} runs and what they leave")
    chosen = benchmark(lengths, seeds, epochs, workers, empty_runs)
    run_benchmark("bench sweep", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    if "sweep_s" in result:
        print(f"the sweep: {result['sweep_s']:.1f} s with {result['workers']} workers")
    if "one_by_one_s" in result:
        print(
            f"one training after the other: {result['one_by_one_s']:.1f} s, "
            f"{result['ratio_to_one_by_one']:.1f} times as long\n"
            f"with a plain Python loop over time: {result['plain_loop_s']:.0f} s, "
            f"{result['ratio_to_plain_loop']:.0f} times as long"
        )
    if "overhead" in result:
        runs, each = result["overhead"]["runs"], result["overhead"]["ms_per_run"]
        print(f"the runner's own cost at {runs} runs: {each:.2f} ms a run")
