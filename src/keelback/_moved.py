"""Names that have moved or changed: the old ones still give what they gave, with a warning."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def moved(room: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`: each name of `names` is taken from where it is now.

    That is a room, where the name stayed, or `ROOM:NAME`.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 (becomes the module's)
        if name not in names:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        place, _, now = names[name].partition(":")
        told = f"has moved: import it from {place}" if not now else f"is {place}.{now} now"
        warnings.warn(f"{room}.{name} {told}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(place), now or name)

    return __getattr__
