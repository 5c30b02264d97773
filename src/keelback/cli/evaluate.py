"""`keelback evaluate`: the accuracy of one checkpoint on one split of a task."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import Json, app, print_json


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors or reference .pth file.")],
    task: Annotated[str, typer.Option(help="The task to score it on.")],
    seq_len: Annotated[int | None, typer.Option(help="Sequence length T.")] = None,
    data_seed: Annotated[int | None, typer.Option(help="Seed of a generated task.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where a loaded task's data lie.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Vocabulary file of a text task.")] = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    json: Json = False,
) -> None:
    """Print the accuracy of a checkpoint on a task."""
    from keelback.data import SPLIT_NAMES, get_task
    from keelback.errors import InputError
    from keelback.models import load_model
    from keelback.training import accuracy

    if split not in SPLIT_NAMES:
        raise InputError(f"--split is {split!r}; it must be {' or '.join(SPLIT_NAMES)}")
    options: dict[str, Any] = {
        "seq_len": seq_len,
        "data_seed": data_seed,
        "data": data,
        "tokenizer": tokenizer,
    }
    chosen = get_task(task, **options)
    model = load_model(checkpoint)
    require_fit(model, chosen.vocab_size, chosen.n_classes, checkpoint, task)
    examples = chosen.split(next(name for name in SPLIT_NAMES if name == split))
    share = accuracy(model, examples)
    if json:
        print_json({"accuracy": share, "examples": len(examples), "task": task, "split": split})
    else:
        print(f"{share:.5f}")


def require_fit(model: Any, vocab_size: int, n_classes: int, checkpoint: Path, task: str) -> None:
    """Check that a model reads the task's tokens and decides between its classes.

    Raises:
        InputError: it does not.
    """
    from keelback.errors import InputError

    config = model.config
    if (config.vocab_size, config.n_classes) != (vocab_size, n_classes):
        raise InputError(
            f"{checkpoint} is a model for {config.vocab_size} token ids and {config.n_classes} "
            f"classes; task {task} has {vocab_size} and {n_classes}"
        )
