"""Names that have moved to another room: the old place still gives them, with a warning."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def moved(room: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`: each name of `names` is taken from the room that it moved to."""

    def __getattr__(name: str) -> Any:  # noqa: N807 (becomes the module's)
        if name not in names:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        warnings.warn(
            f"{room}.{name} has moved: import it from {names[name]}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(names[name]), name)

    return __getattr__
