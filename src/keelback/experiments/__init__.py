"""The experiments of two papers and beyond, by name; their runs are `keelback.sweeps`."""

from keelback._moved import moved
from keelback.experiments._catalogue import get_experiment
from keelback.experiments.everything import everything
from keelback.experiments.experiment import (
    EXPERIMENTS,
    Experiment,
    Settings,
    register_experiment,
)

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Settings",
    "everything",
    "get_experiment",
    "register_experiment",
]

__getattr__ = moved(
    __name__,
    {
        "Outcome": "keelback.outcome",
        **dict.fromkeys(
            (
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
            ),
            "keelback.sweeps",
        ),
    },
)
