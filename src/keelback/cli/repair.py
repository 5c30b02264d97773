"""`keelback repair`: make a model hold beyond its training length without training it."""

from pathlib import Path
from typing import Annotated

import typer

from keelback.cli.app import app, print_json
from keelback.cli.audit import hush_transformers, say_of_loading
from keelback.cli.options import (
    DeviceOrBest,
    Ignored,
    Json,
    ModelName,
    Text,
    TokenizerName,
    Tokens,
    TrainLength,
    refuse_beside,
)
from keelback.cli.progress import sweep_progress, work_progress
from keelback.device import chosen_device
from keelback.errors import printable


@app.command()
def repair(
    model: ModelName,
    out: Annotated[
        Path, typer.Option(help="Folder for the repaired checkpoint, empty or absent; e.g. mended.")
    ],
    target_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Length in tokens at which the model should hold; no default, needed except with "
            "--undo; e.g. 16384.",
        ),
    ] = None,
    train_length: TrainLength = None,
    method: Annotated[
        str,
        typer.Option(
            help="What is edited: decay-floor (a limit on how long states remember), rate-scale "
            "(A), step-scale (step sizes), clip (only states that do not decay), or auto (the best "
            "of the first three)."
        ),
    ] = "auto",
    search: Annotated[
        str,
        typer.Option(
            help="How the edit is searched for: shared (one value for all layers), coordinate "
            "(layer by layer) or gradient (all layers by Adam)."
        ),
    ] = "coordinate",
    evaluations: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of forward passes for the search layer by layer; by default as many as "
            "it needs; e.g. 40.",
        ),
    ] = None,
    text: Text = None,
    tokens: Tokens = None,
    tokenizer: TokenizerName = None,
    sequences: Annotated[
        int,
        typer.Option(min=2, help="Number of sequences at most, half of them to measure with."),
    ] = 4,
    device: DeviceOrBest = None,
    ignore: Ignored = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write the repaired model even if it does not help on held-out text."
        ),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo", help="Take MODEL, a repaired folder, and write the original to --out."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Edit how a model's layers forget, measure it on held-out text, and write the result.

    For models that fail beyond the length of their training. Nothing is trained: one number per
    layer is searched for on one half of the text, and measured on the other half. The original is
    not changed. Exits with 1, and writes nothing, where the edit does not help.
    """
    from keelback.audit import (
        load_any_model,
        read_input,
        require_free,
        require_savable,
        save_repaired,
        undo_repair,
    )
    from keelback.audit import repair as run_repair
    from keelback.errors import InputError, JobError

    require_free(out)
    device = chosen_device(device)
    if search != "coordinate" and search != "gradient":
        refuse_beside(f"--search {search}", {"evaluations": evaluations}, repair)
    if undo:
        of_repair = {
            "target_length": target_length, "train_length": train_length, "method": method,
            "search": search, "evaluations": evaluations, "text": text, "tokens": tokens,
            "tokenizer": tokenizer, "sequences": sequences, "ignore": ignore, "force": force,
        }  # fmt: skip
        refuse_beside("--undo", of_repair, repair)
        undone = undo_repair(model, out)
        names, others = list(undone.tensors), list(undone.others)
        if json:
            print_json({"undone": names, "changed_since": others, "out": str(out)})
            return
        print(f"put back {len(names)} tensors; written to {out}")
        if others:
            print(printable(f"changed after the repair, and left so: {', '.join(others)}"))
        return
    if target_length is None:
        raise InputError("--target-length is missing: the length at which the model should hold")
    with work_progress("repair, loading"):
        loaded = load_any_model(model, ignore=ignore or (), device=device)
    hush_transformers()
    say_of_loading(loaded)
    require_savable(loaded, out)
    ids, _ = read_input(loaded, text=text, tokens=tokens, tokenizer=tokenizer)
    with sweep_progress("repair") as progress:
        result = run_repair(
            loaded.model,
            ids[: sequences * max(target_length, 1)],
            target_length=target_length,
            train_length=train_length,
            method=method,
            search=search,
            evaluations=evaluations,
            stored_as=loaded.stored_types,
            locked=loaded.locked,
            force=force,
            progress=progress,
        )
    if result.method == "none":
        raise JobError(f"{result.summary} Nothing was written.")
    report = save_repaired(loaded, result, out)
    if json:
        print_json({**report, "out": str(out)})
        return
    print(f"{result.summary}\nwritten to {out}")
    if report["left_as_they_are"]:
        print(f"copied with their old values: {', '.join(report['left_as_they_are'])}")
