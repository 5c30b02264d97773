"""Sweeps: runs named by their configuration, a store that survives a kill, executors, selection."""

from keelback.sweeps.provenance import provenance, provenance_of_runs
from keelback.sweeps.run import Run, RunResult
from keelback.sweeps.runner import available_cores, sweep
from keelback.sweeps.single_training import train_single
from keelback.sweeps.store import Store, StoredRun
from keelback.sweeps.training_run import TrainingRun

__all__ = [
    "Run",
    "RunResult",
    "Store",
    "StoredRun",
    "TrainingRun",
    "available_cores",
    "provenance",
    "provenance_of_runs",
    "sweep",
    "train_single",
]
