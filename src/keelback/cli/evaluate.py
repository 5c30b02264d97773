"""`keelback evaluate`: the accuracy of one checkpoint on one split of a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelback.cli.app import app, print_json
from keelback.cli.options import (
    Checkpoint,
    DataPath,
    DataSeed,
    Json,
    SeqLenOfTask,
    TaskName,
    TaskSettings,
    TokenizerFile,
)
from keelback.cli.progress import work_progress

if TYPE_CHECKING:
    from keelback.data import Task


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    task: TaskName,
    seq_len: SeqLenOfTask = None,
    data_seed: DataSeed = None,
    data: DataPath = None,
    tokenizer: TokenizerFile = None,
    setting: TaskSettings = None,
    split: Annotated[str, typer.Option(help="Split to score, train or test.")] = "test",
    json: Json = False,
) -> None:
    """Print the accuracy of a checkpoint on a task."""
    from keelback.data import SPLIT_NAMES
    from keelback.errors import InputError, JobError
    from keelback.models import load_model
    from keelback.training import score

    if split not in SPLIT_NAMES:
        raise InputError(f"--split is {split!r}; it must be {' or '.join(SPLIT_NAMES)}")
    chosen = task_of_options(task, seq_len, data_seed, data, tokenizer, setting)
    model = load_model(checkpoint)
    require_fit(model, chosen.vocab_size, chosen.n_classes, checkpoint, task)
    examples = chosen.split(next(name for name in SPLIT_NAMES if name == split))
    with work_progress("evaluate"):
        share, undecided = score(model, examples)
    if undecided:
        raise JobError(
            f"{checkpoint} gives NaN instead of a decision for {undecided} of {len(examples)} "
            "examples; nothing is scored"
        )
    if json:
        print_json(
            {"accuracy": share, "examples": len(examples), "task": chosen.name, "split": split}
        )
    else:
        print(f"{share:.5f}")


def task_of_options(
    task: str,
    seq_len: int | None,
    data_seed: int | None,
    data: Path | None,
    tokenizer: Path | None,
    setting: list[str] | None,
) -> "Task":
    """The task of a command line.

    Raises:
        InputError: there is no such task or setting, or the task needs `--seq-len`.
    """
    from keelback.cli.reproduce import named_settings
    from keelback.data import get_task
    from keelback.errors import InputError

    options: dict[str, Any] = {
        "seq_len": seq_len,
        "data_seed": data_seed,
        "data": data,
        "tokenizer": tokenizer,
    }
    options |= named_settings(setting or [], options)
    try:
        return get_task(task, **options)
    except InputError as error:
        if str(error).endswith(": seq_len is missing"):
            raise InputError(f"{error}; give --seq-len, the sequence length in tokens") from None
        raise


def require_fit(model: Any, vocab_size: int, n_classes: int, checkpoint: Path, task: str) -> None:
    """Check that a model reads the task's tokens and decides between its classes.

    Raises:
        InputError: it does not.
    """
    from keelback.errors import InputError

    config = model.config
    if not hasattr(config, "n_classes"):
        raise InputError(f"{checkpoint} is no classifier: a model {config.kind} has no classes")
    if (config.vocab_size, config.n_classes) != (vocab_size, n_classes):
        raise InputError(
            f"{checkpoint} is a model for {config.vocab_size} token ids and {config.n_classes} "
            f"classes; task {task} has {vocab_size} and {n_classes}"
        )
