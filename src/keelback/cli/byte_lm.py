"""`keelback byte-lm`: train byte-level language models, audit them at length, repair them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from keelback.cli.app import Json, app, print_json, provenance_of_command
from keelback.device import chosen_device


@app.command(name="byte-lm")
def byte_lm(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the report.")],
    presets: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            help="tiny (minutes on a core; the default); mamba, mamba2, mamba-long-memory, "
            "mamba2-long-memory (10 million parameters, on a GPU). Repeatable.",
        ),
    ] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the training, repeatable.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where the IMDb reviews lie.")] = None,
    multiple: Annotated[int, typer.Option(min=2, help="Length run over length trained.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (cuda where there is).")] = None,
    json: Json = False,
) -> None:
    """Train byte-level language models on reviews, run them far beyond that length, repair them."""
    from keelback.experiments.length.byte_lm import (
        chosen_config,
        free_folders,
        study,
        study_outcome,
    )
    from keelback.files import write_json
    from keelback.report import write_report

    configs = {preset: chosen_config(preset, fields or []) for preset in presets or ["tiny"]}
    for preset in configs:
        free_folders(out / preset)
    device = chosen_device(device)
    found = [
        study(config, data, out / preset, multiple=multiple, device=device, report=_say)
        for preset, config in configs.items()
    ]
    outcome = study_outcome(found)
    record = provenance_of_command()
    write_report([outcome], out, record)
    document = {"provenance": record, **outcome.numbers}
    write_json(out / "results.json", document)
    if json:
        print_json(dict(outcome.numbers))
    else:
        for one in found:
            print(one.before.model, one.before.verdict, one.mended.summary, sep="\n", end="\n\n")


def _say(step: int, loss: float) -> None:
    print(f"step {step}: {loss:.3f} nats a byte", file=sys.stderr, flush=True)
