"""`keelback train`: one model on one task, with its monitor."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import app, print_json
from keelback.cli.options import (
    LARGEST_SEED,
    DataPath,
    Json,
    SeqLen,
    TaskName,
    TokenizerFile,
    require_once,
)

if TYPE_CHECKING:
    from keelback.sweeps import StoredRun, TrainingRun
    from keelback.training import Place


@app.command()
def train(
    task: TaskName,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the run, made if absent; it may hold other runs already; e.g. out."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Kind of the model, a name from `keelback list`.")
    ] = "selective-ssm",
    seq_len: SeqLen = None,
    abscissa: Annotated[
        float | None,
        typer.Option(
            min=-1e30,
            max=1e30,
            help="Spectral abscissa (largest eigenvalue) of A at the start, per unit of time; "
            "default 0; e.g. -0.1.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Seed, a whole number, of the data, the initial weights and the order.",
        ),
    ] = 1,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of epochs; by default that of the recipe; e.g. 40."),
    ] = None,
    parametrisation: Annotated[
        str | None,
        typer.Option(
            help="Parametrisation of A: free (any entries) or stable (entries that cannot reach "
            "0); default free; e.g. stable."
        ),
    ] = None,
    bound_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1e6,
            help="Penalty on the logarithm of the sharpened bound's largest term, for a "
            "selective-ssm: its weight, in units of the loss; default 0; e.g. 0.03.",
        ),
    ] = None,
    initial_sensitivity: Annotated[
        float | None,
        typer.Option(
            min=1e-30,
            max=1e30,
            help="Value that the largest term of the sharpened bound has at the start, in units of "
            "the logit for sequences of --seq-len; W_B and W_C of a selective-ssm are scaled to "
            "reach it; by default they are not scaled; e.g. 10000.",
        ),
    ] = None,
    data: DataPath = None,
    tokenizer: TokenizerFile = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another field of the run, PART.NAME=VALUE, as `keelback runs` names it (parts: "
            "recipe, model, task_settings); may be repeated; by default none; e.g. "
            "recipe.batch_size=32.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precision of the logits, float32 or bfloat16; default float32; e.g. bfloat16."
        ),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Train on the CPU even where there is a GPU.")
    ] = False,
    recompute_layers: Annotated[
        bool,
        typer.Option(
            "--recompute-layers",
            help="Gradient checkpointing: keep only the input of each layer, and compute the rest "
            "again in the backward pass.",
        ),
    ] = False,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(min=0, help="Least time between checkpoints, in seconds; 0: every epoch."),
    ] = 0.0,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            help="Tracker to log to as well: tensorboard, wandb, mlflow, trackio and others; may "
            "be repeated; by default none; e.g. tensorboard."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train one model on a task and log its stability each epoch.

    The recipe (optimiser, learning rate, epochs and so on) is that of arXiv 2502.01473; --set
    changes it. Writes DIR/runs/NAME/: run.json (configuration, result, provenance), history.parquet
    (loss, accuracy and stability, one row per epoch) and model.safetensors. If it was stopped, the
    same command continues from the last checkpoint. Started by `accelerate launch` or `torchrun`,
    all processes share the training. Exits with 1 if the training diverged.
    """
    from keelback.cli.progress import sweep_progress
    from keelback.data import task_name
    from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run
    from keelback.sweeps import Store, train_single

    of_recipe = {"epochs": epochs, "precision": precision, "bound_penalty": bound_penalty}
    of_model = {
        "spectral_abscissa": abscissa,
        "parametrisation": parametrisation,
        "initial_sensitivity": initial_sensitivity,
    }
    require_once(
        setting or [],
        {
            **{f"recipe.{name}": value for name, value in of_recipe.items()},
            **{f"model.{name}": value for name, value in of_model.items()},
            "task_settings.seq_len": seq_len,
            "task_settings.data": data,
            "task_settings.tokenizer": tokenizer,
        },
    )
    task = task_name(task)
    chosen = preset(LENGTH_INDEPENDENCE, task)
    of_task = _settings_of_task(setting or [])
    longest = chosen.lengths[-1] if chosen.lengths else None
    length = of_task.get("seq_len", longest if seq_len is None else seq_len)
    chosen = replace(chosen, task_settings={**chosen.task_settings, **of_task})
    given = {"data": data, "tokenizer": tokenizer}
    paths = {name: path.resolve() for name, path in given.items() if path is not None}
    run = selective_ssm_run(task, chosen, seq_len=length, seed=seed, epochs=epochs, paths=paths)
    if initial_sensitivity is not None:
        of_model["initial_length"] = length
    run = _with_settings(
        run,
        model,
        [
            *(f"model.{name}={value}" for name, value in of_model.items() if value is not None),
            *(f"recipe.{name}={value}" for name, value in of_recipe.items() if value is not None),
            *(setting or []),
        ],
    )
    if recompute_layers:
        _require_layers(run)
    run.require_room()
    place = _place(run, cpu, tracker or [], out)
    given_length = run.task_settings.get("seq_len")
    title = f"training on {run.task}" + (f", T = {given_length}" if given_length else "")
    with (
        Store.created(out) if place.is_main else nullcontext(Store(out)) as store,
        place,
        sweep_progress(title, shown=place.is_main) as on_progress,
    ):
        place.wait_for_all()
        stored = train_single(
            run,
            store,
            place=place,
            recompute=recompute_layers,
            checkpoint_seconds=checkpoint_seconds,
            progress=lambda share: on_progress(share, 1.0),
        )
    if place.is_main:
        _tell(stored, json)


def _with_settings(run: "TrainingRun", model: str, settings: Sequence[str]) -> "TrainingRun":
    """The run with another model and other fields; raises where there are none such."""
    from typing import cast

    from keelback.errors import InputError
    from keelback.sweeps import TrainingRun
    from keelback.sweeps.run import run_from_fields

    fields: dict[str, Any] = {**run.fields(), **run.circumstances()}
    if model != fields["model"]["kind"]:
        shared = {name: fields["model"][name] for name in ("vocab_size", "n_classes")}
        fields["model"] = {"kind": model, **shared}
    for setting in settings:
        *parents, last, value = _parsed(setting)
        inner = fields
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(f"--set {setting!r}: {parent} has no fields")
        inner[last] = value
    changed = cast(TrainingRun, run_from_fields(fields))
    _require_fit(changed)
    return changed


def _require_fit(run: "TrainingRun") -> None:
    """Check that the model reads the task's tokens and decides between its classes."""
    from keelback.errors import InputError

    task = run.get_task()
    for name, size in (("vocab_size", task.vocab_size), ("n_classes", task.n_classes)):
        if run.model.get(name) != size:
            raise InputError(
                f"model.{name} is {run.model.get(name)}; it should be {size}, as in the task "
                f"{run.task}"
            )


def _settings_of_task(settings: Sequence[str]) -> dict[str, Any]:
    """Those that belong to the task itself, which decide what a model must read."""
    parsed = [_parsed(setting) for setting in settings]
    return {p[1]: p[2] for p in parsed if p[0] == "task_settings" and len(p) == 3}


def _parsed(setting: str) -> list[Any]:
    """The parts of a field's path, then its value, JSON where it is that and else text."""
    from keelback.errors import InputError
    from keelback.files import parsed_json

    path, equals, text = setting.partition("=")
    parts: list[Any] = path.split(".")
    if not equals or len(parts) < 2:
        raise InputError(f"--set {setting!r} is not PART.NAME=VALUE, as in recipe.batch_size=32")
    try:
        return [*parts, parsed_json(text)]
    except ValueError:
        return [*parts, text]


def _require_layers(run: "TrainingRun") -> None:
    from keelback.models import model_config
    from keelback.training import recompute_layers

    recompute_layers(model_config(run.model).build())


def _place(run: "TrainingRun", cpu: bool, trackers: Sequence[str], out: Path) -> "Place":
    """Where to train: accelerate's processes and trackers, or one device."""
    from keelback.device import default_device
    from keelback.sweeps.selection import flatten
    from keelback.training import AcceleratePlace, Place

    if trackers or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return AcceleratePlace(
            cpu=cpu,
            trackers=trackers,
            folder=str(out / "trackers"),
            settings=flatten(run.fields()),
        )
    return Place("cpu" if cpu else default_device())


def _tell(stored: "StoredRun", json: bool) -> None:
    from keelback.errors import JobError

    summary = stored.summary
    if json:
        print_json({"name": stored.name, "directory": str(stored.folder), **summary})
    if summary["diverged"]:
        raise JobError(
            f"training diverged in epoch {summary['diverged_epoch']}, step "
            f"{summary['diverged_step']}: {summary['diverged_tensor']} was the first tensor that "
            f"was not finite; the record is in {stored.folder}"
        )
    if not json:
        end = "" if summary["s_A"] is None else f", s_A {summary['s_A']:+.4f}"
        print(
            f"train {summary['train_accuracy']:.3f}, test {summary['test_accuracy']:.3f}{end}: "
            f"{stored.folder}"
        )
