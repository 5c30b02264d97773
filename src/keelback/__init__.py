"""keelback keeps selective state-space models upright: train, measure, bound and repair them."""

import importlib
from types import ModuleType

__version__ = "0.1.0.dev0"

_ROOMS = (
    "audit",
    "bounds",
    "data",
    "dynamics",
    "experiments",
    "models",
    "report",
    "scan",
    "training",
)


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first named, so that `import keelback` alone stays fast."""
    if name in _ROOMS:
        return importlib.import_module(f"keelback.{name}")
    raise AttributeError(f"module 'keelback' has no attribute {name!r}")
