"""Readings in the trackers of others: Weights & Biases, MLflow, Trackio, TensorBoard."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

Log = Callable[[Mapping[str, float], int], None]
"""Takes a reading in a few numbers, and the step that it is of."""


def log_to_open_runs(values: Mapping[str, float], step: int) -> None:
    """Give a reading to whichever of Weights & Biases, MLflow and Trackio has a run open.

    For `TrainingMonitor(log=...)`. Their modules are not imported: a run is open only where the
    program has imported them.

    Examples:
        >>> log_to_open_runs({"layers.0/spectral_abscissa": -0.5}, step=10)  # none is open
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.log({**values, "train/global_step": step})
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.active_run() is not None:
        mlflow.log_metrics(dict(values), step=step)
    trackio, contexts = sys.modules.get("trackio"), sys.modules.get("trackio.context_vars")
    if trackio is not None and contexts is not None and contexts.current_run.get() is not None:
        trackio.log(dict(values), step=step)


def log_to_tensorboard(writer: Any) -> Log:
    """Gives readings to a `SummaryWriter`; for `TrainingMonitor(log=...)`.

    Examples:
        >>> class Writer:
        ...     def add_scalar(self, name, value, step):
        ...         print(name, value, step)
        ...     def flush(self):
        ...         pass
        >>> log_to_tensorboard(Writer())({"layers.0/delta": 0.1}, 10)
        layers.0/delta 0.1 10
    """

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log
