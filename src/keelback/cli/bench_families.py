"""`keelback bench families`: what is done with each family of transformers."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import print_measured, provenance_of_command
from keelback.cli.bench import bench
from keelback.cli.options import Json
from keelback.cli.progress import work_progress


@bench.command()
def families(
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="Family of transformers to try; may be repeated; all by default; e.g. mamba2."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; by default none; e.g. families.")
    ] = None,
    json: Json = False,
) -> None:
    """Audit, repair, restore and monitor a tiny model of each family of transformers."""
    from keelback.benchmarks.family_support import as_csv, every_family, support
    from keelback.errors import InputError
    from keelback.extras import require_extra
    from keelback.files import write_atomically, write_json

    require_extra("hf", "bench families", ["transformers"])
    unknown = sorted(set(family or ()) - set(every_family()))
    if unknown:
        known = ", ".join(every_family())
        raise InputError(f"--family is {unknown[0]}; it should be one of {known}")
    _without_bars()
    with work_progress("bench families"):
        rows = support(family, lambda name: print(name, file=sys.stderr, flush=True))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", {"provenance": provenance_of_command(), "rows": rows})
        write_atomically(out / "families.csv", as_csv(rows))
    if json:
        print_measured({"rows": rows})
        return
    print(as_csv(rows), end="")


def _without_bars() -> None:
    import transformers

    log: Any = transformers.utils.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
