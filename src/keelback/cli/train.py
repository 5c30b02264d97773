"""`keelback train`: one model on one task, with its monitor."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from keelback.sweeps import StoredRun, TrainingRun
    from keelback.training import Place


@app.command()
def train(
    task: Annotated[str, typer.Option(help="The task to train on.")],
    out: Annotated[Path, typer.Option(help="Directory for the run; made if absent.")],
    model: Annotated[str, typer.Option(help="`keelback list` names them.")] = "selective-ssm",
    seq_len: Annotated[int | None, typer.Option(help="Sequence length T.")] = None,
    abscissa: Annotated[
        float | None, typer.Option(help="Spectral abscissa of A at the start; 0 if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data, the model and the order.")] = 1,
    epochs: Annotated[int | None, typer.Option(help="Epochs; the paper's by default.")] = None,
    parametrisation: Annotated[
        str | None, typer.Option(help="Of A: free (the default) or stable.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where a loaded task's data lie.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Vocabulary file of a text task.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another field of the run, as `keelback runs` names it: recipe.batch_size=32, "
            "model.d_model=64, task_settings.n_train=5000.",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the logits: float32 (the default) or bfloat16.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave a GPU alone.")] = False,
    recompute_layers: Annotated[
        bool,
        typer.Option(
            "--recompute-layers",
            help="Gradient checkpointing: keep each layer's input alone, compute the rest again.",
        ),
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Least time between checkpoints; 0 for one each epoch.")
    ] = 0.0,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, wandb, mlflow, trackio, ...; repeat it."),
    ] = None,
    json: Json = False,
) -> None:
    """Train one model with the paper's recipe and log its stability each epoch.

    Writes DIR/runs/NAME/: run.json (configuration, result, provenance), history.parquet (the
    monitor, a row an epoch) and model.safetensors. Stopped at any moment, the same command goes on
    from the last checkpoint. Started by `accelerate launch` or `torchrun`, all processes share the
    training. Exits with 1 where the training diverged.
    """
    from keelback.cli.progress import sweep_progress
    from keelback.errors import InputError
    from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run
    from keelback.models import model_config, require_room
    from keelback.sweeps import Store, train_single

    chosen = preset(LENGTH_INDEPENDENCE, task)
    length = seq_len if seq_len is not None else chosen.lengths[-1]
    if length < 1 or seed < 0 or (epochs is not None and epochs < 1):
        raise InputError("--seq-len and --epochs must be 1 or more, --seed 0 or more")
    given = {"data": data, "tokenizer": tokenizer}
    paths = {name: path.resolve() for name, path in given.items() if path is not None}
    run = selective_ssm_run(task, chosen, seq_len=length, seed=seed, epochs=epochs, paths=paths)
    own = {"spectral_abscissa": abscissa, "parametrisation": parametrisation}
    run = _with_settings(
        run,
        model,
        [
            *(f"model.{name}={value}" for name, value in own.items() if value is not None),
            *([f"recipe.precision={precision}"] if precision is not None else []),
            *(setting or []),
        ],
    )
    if recompute_layers:
        _require_layers(run)
    require_room(model_config(run.model), copies=5)
    place = _place(run, cpu, tracker or [], out)
    store = Store.create(out) if place.is_main else Store(out)
    place.wait_for_all()
    title = f"training on {task}, T = {run.task_settings['seq_len']}"
    with place, sweep_progress(title, shown=place.is_main) as on_progress:
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
    import json
    from typing import cast

    from keelback.errors import InputError
    from keelback.sweeps import TrainingRun
    from keelback.sweeps.run import run_from_fields

    fields: dict[str, Any] = {**run.fields(), **run.circumstances()}
    if model != fields["model"]["kind"]:
        shared = {name: fields["model"][name] for name in ("vocab_size", "n_classes")}
        fields["model"] = {"kind": model, **shared}
    for setting in settings:
        path, equals, text = setting.partition("=")
        *parents, last = path.split(".")
        if not equals or not parents:
            raise InputError(
                f"--set {setting!r} is not PART.NAME=VALUE, as in recipe.batch_size=32"
            )
        inner = fields
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(f"--set {setting!r}: {parent} has no fields")
        try:
            inner[last] = json.loads(text)
        except ValueError:
            inner[last] = text
    changed = cast(TrainingRun, run_from_fields(fields))
    changed.get_task()
    return changed


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
