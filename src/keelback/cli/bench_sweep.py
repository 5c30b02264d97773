"""`keelback bench sweep`: the runner and its replica axis against one training after another."""

from typing import Annotated

import typer

from keelback.cli.app import print_measured
from keelback.cli.bench import bench
from keelback.cli.options import Json
from keelback.cli.progress import work_progress
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
    json: Json = False,
) -> None:
    """Time the Majority sweep beside the same trainings one after the other.

    Both alternatives are timed on a part of the trainings and extrapolated; `extrapolated` says
    from what.
    """
    from keelback.benchmarks.runner_overhead import runner_overhead
    from keelback.benchmarks.sweep_speed import require_sweep, sweep_speed

    lengths = None if seq_len is None else seq_len.split(",")
    require_memory(_BYTES_OF_RUN * empty_runs, f"{empty_runs} runs and what they leave")
    require_sweep(lengths, seeds, epochs)
    with work_progress("bench sweep"):
        overhead = runner_overhead(empty_runs, workers)
        result = {**sweep_speed(lengths, seeds, epochs, workers), "overhead": overhead}
    if json:
        print_measured(result)
        return
    print(
        f"the sweep: {result['sweep_s']:.1f} s with {result['workers']} workers\n"
        f"one training after the other: {result['one_by_one_s']:.1f} s, "
        f"{result['ratio_to_one_by_one']:.1f} times as long\n"
        f"with a plain Python loop over time: {result['plain_loop_s']:.0f} s, "
        f"{result['ratio_to_plain_loop']:.0f} times as long\n"
        f"the runner's own cost at {overhead['runs']} runs: {overhead['ms_per_run']:.2f} ms a run"
    )
