"""keelback keeps selective state-space models upright: train, measure, bound and repair them.

The rooms of the package (`dir(keelback)`) and the names that people need most are imported when
they are first used, so that `import keelback` alone stays fast.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
    "audit",
    "bounds",
    "certify",
    "conv",
    "data",
    "delta",
    "dynamics",
    "experiments",
    "integrations",
    "models",
    "norm",
    "outcome",
    "recurrence",
    "report",
    "scan",
    "ssd",
    "sweeps",
    "training",
    "watch",
)

_NAMES = {
    "selective_scan": "scan",
    "selective_scan_step": "scan",
    "causal_conv1d": "conv",
    "provide_fla": "integrations",
    "provide_mamba_ssm": "integrations",
    "use_in_transformers": "integrations",
    "SelectiveSSM": "models",
    "load_model": "models",
    "save_model": "models",
    "get_task": "data",
    "register_task": "data",
    "register_model": "models",
    "register_adapter": "audit.adapters",
    "register_experiment": "experiments",
    "load_plugin": "plugins",
    "train": "training",
    "Recipe": "training",
    "StabilityMonitor": "training",
    "TrainingMonitor": "audit",
    "repair": "audit",
    "ClassConstants": "bounds",
    "certify_model": "certify",
    "get_experiment": "experiments",
    "sweep": "sweeps",
}
"""Where each name of the public face lives."""


def __getattr__(name: str) -> Any:
    """Import a room, or a name out of its room, when it is first asked for."""
    if name in _ROOMS:
        return importlib.import_module(f"keelback.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"keelback.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'keelback' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__doc__", "__version__", *_ROOMS, *_NAMES])
