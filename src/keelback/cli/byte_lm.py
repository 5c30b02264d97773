"""`keelback byte-lm`: train byte-level language models, audit them at length, repair them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from keelback.cli.app import app, print_json, provenance_of_command
from keelback.cli.options import DeviceOrBest, Json, require_once
from keelback.cli.progress import work_progress
from keelback.device import chosen_device
from keelback.extras import require_extra


@app.command(name="byte-lm")
def byte_lm(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the report; e.g. byte-lm.")],
    presets: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            help="Model and training: tiny (minutes on one core; the default), or mamba, mamba2, "
            "mamba-long-memory, mamba2-long-memory (10 million parameters, on a GPU); may be "
            "repeated; e.g. tiny.",
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Field of the training, FIELD=VALUE; may be repeated; the preset's by default; "
            "e.g. steps=200.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder or file of the IMDb reviews; by default downloaded; e.g. data/imdb."
        ),
    ] = None,
    multiple: Annotated[
        int, typer.Option(min=2, help="Length of the test sequences, in training lengths.")
    ] = 32,
    device: DeviceOrBest = None,
    json: Json = False,
) -> None:
    """Train byte-level language models, run them far beyond their training length, repair them."""
    from keelback.benchmarks.mamba_size import mamba_numbers
    from keelback.experiments.length.byte_lm import (
        chosen_config,
        free_folders,
        study,
        study_outcome,
    )
    from keelback.files import adding_to, write_json
    from keelback.memory import require_tensors
    from keelback.report import write_report
    from keelback.report._files import require_own_page

    require_extra("hf", "byte-lm", ["transformers", *(["datasets"] if data is None else [])])
    require_extra("report", "the report of byte-lm")
    require_once(fields or [], {})
    require_own_page(out)
    configs = {preset: chosen_config(preset, fields or []) for preset in presets or ["tiny"]}
    for preset in configs:
        free_folders(out / preset)
    device = chosen_device(device)
    for config in configs.values():
        tokens = max(config.batch, multiple) * config.seq_len
        numbers = mamba_numbers(config.n_layers, config.d_model, tokens)
        require_tensors(device, numbers, "the weights and activations")
    with work_progress("byte-lm"):
        found = [
            study(config, data, out / preset, multiple=multiple, device=device, report=_say)
            for preset, config in configs.items()
        ]
    outcome = study_outcome(found)
    record = provenance_of_command()
    document = {"provenance": record, **outcome.numbers}
    with adding_to(out) as partial:
        write_report([outcome], partial, record)
        write_json(partial / "results.json", document)
    if json:
        print_json(dict(outcome.numbers))
    else:
        for one in found:
            print(one.before.model, one.before.verdict, one.mended.summary, sep="\n", end="\n\n")


def _say(step: int, loss: float) -> None:
    print(f"step {step}: {loss:.3f} nats per byte", file=sys.stderr, flush=True)
