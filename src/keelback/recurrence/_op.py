"""`torch.ops.keelback.diagonal_recurrence`, and its backends."""

from typing import Any

from keelback.compiled.operator import Operator
from keelback.recurrence import cpu, cuda

BACKENDS: Any = {"cpu": cpu, "cuda": cuda}

RECURRENCE = Operator(
    "diagonal_recurrence",
    differentiable=("a", "x", "initial_state"),
    outputs=("h",),
    backends=BACKENDS,
    fake=lambda a, x, *_: (x.new_empty(x.shape),),
)
