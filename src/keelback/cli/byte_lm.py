"""`keelback byte-lm`: train a byte-level language model, audit it at length, repair it."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import typer

from keelback.cli.app import app, print_json, provenance_of_command
from keelback.cli.audit import chosen_device


@app.command(name="byte-lm")
def byte_lm(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the report.")],
    preset: Annotated[
        str, typer.Option(help="tiny (minutes on a core) or small (a GPU).")
    ] = "tiny",
    fields: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the training, repeatable.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where the IMDb reviews lie.")] = None,
    multiple: Annotated[int, typer.Option(min=2, help="Length run over length trained.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (cuda where there is).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Train a byte-level language model on reviews, run it far beyond that length, repair it."""
    from keelback.experiments.byte_lm import chosen_config, study, study_outcome
    from keelback.files import write_atomically
    from keelback.report import write_report

    config = chosen_config(preset, fields or [])
    found = study(config, data, out, multiple=multiple, device=chosen_device(device), report=_say)
    outcome = study_outcome([found])
    record = provenance_of_command()
    write_report([outcome], out, record)
    document = {"provenance": record, **outcome.numbers}
    write_atomically(out / "results.json", json_format.dumps(document, indent=1, allow_nan=False))
    if json:
        print_json(dict(outcome.numbers))
    else:
        print(f"{found.before.verdict}\n{found.mended.summary}\n{found.after.verdict}")


def _say(step: int, loss: float) -> None:
    print(f"step {step}: {loss:.3f} nats a byte", file=sys.stderr, flush=True)
