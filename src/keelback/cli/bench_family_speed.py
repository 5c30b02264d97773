"""`keelback bench family-speed`: models of transformers with keelback's operators and without."""

import json as json_of
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import print_json, provenance_of_command
from keelback.cli.bench import bench
from keelback.cli.options import Device, Json
from keelback.cli.progress import work_progress
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
    out: Annotated[
        Path | None,
        typer.Option(
            help="File that is written after each family; if it exists, the command continues from "
            "it; by default none; e.g. families.json."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare models of transformers with keelback's operators and with transformers' own."""
    from keelback.benchmarks.family_sizes import realistic
    from keelback.benchmarks.family_speed import Trial, compare_families, timed_families
    from keelback.benchmarks.scan_speed import versions
    from keelback.errors import InputError
    from keelback.extras import require_extra
    from keelback.files import write_json
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
    record = {"provenance": provenance_of_command(), "versions": versions()}
    result: dict[str, Any] = {}
    before = None if out is None else _earlier(out, record)
    try:
        with work_progress("bench family-speed"):
            for result in compare_families(
                family or timed_families(),
                trial,
                limit,
                lambda name: print(name, file=sys.stderr, flush=True),
                before,
            ):
                if out is not None:
                    write_json(out, {**record, **result})
    finally:  # Also where it is interrupted.
        if result:
            _show({**record, **result}, json)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for row in result["rows"]:
        print(row["family"])
        for name, value in row.items():
            if name != "family" and value is not None:
                print(
                    f"  {name}: {value:.3g}" if isinstance(value, float) else f"  {name}: {value}"
                )


def _earlier(out: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run that was ended had written, if it was of the same code.

    Raises:
        InputError: the file is something else, or of another state of the code.
    """
    from keelback.errors import InputError

    if not out.exists():
        return None
    try:
        found: dict[str, Any] = json_of.loads(out.read_text())
        commit = found["provenance"]["commit"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise InputError(f"{out} is not a result of this command; name another file") from None
    if commit != record["provenance"]["commit"]:
        raise InputError(f"{out} is of commit {commit}; name another file")
    return found
