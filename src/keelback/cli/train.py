"""`keelback train`: one model on one task, with its monitor."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import app, print_json


@app.command()
def train(
    task: Annotated[str, typer.Option(help="The task to train on.")],
    out: Annotated[Path, typer.Option(help="Directory for the run; made if absent.")],
    seq_len: Annotated[int | None, typer.Option(help="Sequence length T.")] = None,
    abscissa: Annotated[float, typer.Option(help="Spectral abscissa of A at the start.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the data, the model and the order.")] = 1,
    epochs: Annotated[int | None, typer.Option(help="Epochs; the paper's by default.")] = None,
    parametrisation: Annotated[str, typer.Option(help="Of A: free or stable.")] = "free",
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Train one selective SSM with the paper's recipe and log its stability each epoch.

    Writes DIR/runs/NAME/: run.json (configuration, result, provenance), history.parquet (the
    monitor, a row an epoch) and model.safetensors. Exits with 1 where the training diverged.
    """
    from keelback.errors import InputError, JobError
    from keelback.experiments import Store, sweep
    from keelback.experiments.executor import ThisProcess
    from keelback.experiments.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run

    chosen = preset(LENGTH_INDEPENDENCE, task)
    length = seq_len if seq_len is not None else chosen.lengths[-1]
    if length < 1 or seed < 0 or (epochs is not None and epochs < 1):
        raise InputError("--seq-len and --epochs must be 1 or more, --seed 0 or more")
    run = selective_ssm_run(
        task,
        chosen,
        seq_len=length,
        seed=seed,
        epochs=epochs,
        spectral_abscissa=abscissa,
        parametrisation=parametrisation,
    )
    from keelback.cli.progress import sweep_progress

    store = Store.create(out)
    with sweep_progress(f"training on {task}, T = {length}") as on_progress:
        [stored] = sweep([run], store, executor=ThisProcess(), on_progress=on_progress)
    result: dict[str, Any] = {
        "name": stored.name,
        "directory": str(stored.folder),
        **stored.summary,
    }
    if json:
        print_json(result)
    if stored.summary["diverged"]:
        raise JobError(
            f"training diverged in epoch {stored.summary['diverged_epoch']}, step "
            f"{stored.summary['diverged_step']}: {stored.summary['diverged_tensor']} was the "
            f"first tensor that was not finite; the record is in {stored.folder}"
        )
    if not json:
        print(
            f"train {stored.summary['train_accuracy']:.3f}, test "
            f"{stored.summary['test_accuracy']:.3f}, s_A {stored.summary['s_A']:+.4f}: "
            f"{stored.folder}"
        )
