"""`keelback bench family-speed`: models of transformers with keelback's operators and without."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, Json, OutFile
from keelback.device import chosen_device


@bench.command("family-speed")
def family_speed(
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="Family of transformers to time; may be repeated; all by default; e.g. mamba2."
        ),
    ] = None,
    device: Device = "cpu",
    d_model: Annotated[
        int,
        typer.Option(min=256, help="Number of channels of the models, a multiple of 256."),
    ] = 512,
    length: Annotated[
        list[int] | None,
        typer.Option(
            min=2, help="Length in tokens; may be repeated; by default 512 and 4096; e.g. 1024."
        ),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option(min=1, help="Number of tokens that are generated.")
    ] = 32,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed calls of each; the median counts.")
    ] = 3,
    limit: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="Time in seconds for a family; what is not measured by then is left out.",
        ),
    ] = 240.0,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare models of transformers with keelback's operators and with transformers' own."""
    from keelback.benchmarks.family_sizes import realistic
    from keelback.benchmarks.family_speed import Trial, benchmark, timed_families
    from keelback.errors import InputError
    from keelback.extras import require_extra
    from keelback.memory import require_tensors

    require_extra("hf", "bench family-speed", ["transformers"])
    chosen_device(device)
    realistic(d_model)
    unknown = sorted(set(family or ()) - set(timed_families()))
    if unknown:
        known = ", ".join(timed_families())
        raise InputError(f"--family is {unknown[0]}; it should be one of {known}")
    trial = Trial(device, d_model, tuple(length or (512, 4096)), new_tokens, repeats)
    numbers = 20 * d_model**2 + 40 * d_model * max(trial.lengths)
    require_tensors(device, numbers, "the weights and activations")
    chosen = benchmark(
        family or timed_families(),
        trial,
        limit,
        lambda name: print(name, file=sys.stderr, flush=True),
    )
    run_benchmark("bench family-speed", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        print(row["family"])
        for name, value in row.items():
            if name != "family" and value is not None:
                print(
                    f"  {name}: {value:.3g}" if isinstance(value, float) else f"  {name}: {value}"
                )
