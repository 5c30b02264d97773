"""`keelback bench families`: what is done with each family of transformers."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_into_folder
from keelback.cli.options import Json, OutFolder


@bench.command()
def families(
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="Family of transformers to try; may be repeated; all by default; e.g. mamba2."
        ),
    ] = None,
    out: OutFolder = None,
    json: Json = False,
) -> None:
    """Audit, repair, restore and monitor a tiny model of each family of transformers."""
    from keelback.benchmarks.family_support import benchmark, every_family
    from keelback.errors import InputError
    from keelback.extras import require_extra

    require_extra("hf", "bench families", ["transformers"])
    unknown = sorted(set(family or ()) - set(every_family()))
    if unknown:
        known = ", ".join(every_family())
        raise InputError(f"--family is {unknown[0]}; it should be one of {known}")
    _without_bars()
    chosen = benchmark(family, lambda name: print(name, file=sys.stderr, flush=True))
    run_into_folder(
        "bench families", chosen, out, {"families.csv": _table}, as_json=json, show=_show
    )


def _table(result: Mapping[str, Any]) -> str:
    from keelback.benchmarks.family_support import as_csv

    return as_csv(result["rows"])


def _show(result: Mapping[str, Any]) -> None:
    print(_table(result), end="")


def _without_bars() -> None:
    import transformers

    log: Any = transformers.utils.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
