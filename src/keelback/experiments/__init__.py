"""Experiments: one file each, and the runner and store under their sweeps."""

from keelback.experiments._catalogue import EXPERIMENTS, get_experiment
from keelback.experiments.everything import everything
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.outcome import Outcome
from keelback.experiments.provenance import provenance, provenance_of_runs
from keelback.experiments.run import Run, RunResult
from keelback.experiments.runner import available_cores, sweep
from keelback.experiments.single_training import train_single
from keelback.experiments.store import Store, StoredRun
from keelback.experiments.training_run import TrainingRun

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Outcome",
    "Run",
    "RunResult",
    "Settings",
    "Store",
    "StoredRun",
    "TrainingRun",
    "available_cores",
    "everything",
    "get_experiment",
    "provenance",
    "provenance_of_runs",
    "sweep",
    "train_single",
]
