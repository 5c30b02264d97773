"""The design of the experiment on measures: which places its trainings take."""

from typing import Any

from keelback.experiments.measures.of_model import Candidate

Point = dict[str, Any]
"""One place of the design: the task, the hyperparameters by name, and the repetition."""

TASKS = ("majority", "listops")
FACTORS: dict[str, tuple[float, ...]] = {
    "T": (50, 150),
    "s_A": (-0.5, -0.1, 0.0),
    "d_model": (4, 16),
    "learning rate": (3e-3, 3e-2),
    "m": (100, 300, 1000),
    "weight decay": (0.0, 1e-3),
}
QUICK_FACTORS: dict[str, tuple[float, ...]] = {
    "T": (25, 50),
    "s_A": (-0.5, 0.0),
    "d_model": (4,),
    "learning rate": (3e-3, 3e-2),
    "m": (100, 400),
    "weight decay": (0.0,),
}

TWIN = Candidate("twin", "gap of the same settings, other seed (reference)")
"""What another seed's gap predicts: how well any measure could do."""

KNOWN_BEFORE = ("inverse_m", "parameters")
