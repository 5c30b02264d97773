"""Functions of keelback in packages of others, be these installed or not."""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from keelback.integrations._replacement import Replacement

#: By the full name of a module, parents first: its functions, by their names.
Contents = dict[str, dict[str, Any]]


def is_installed(package: str) -> bool:
    """Whether a package itself is there, and not a module that stands in for it."""
    module = sys.modules.get(package)
    if module is not None:
        return not getattr(module, "__keelback__", False)
    return find_spec(package) is not None


def _ours(theirs: Any, ours: Any) -> Any:
    return ours


def replace_in_package(
    contents: Contents, choice: Callable[[Any, Any], Any] = _ours
) -> Replacement:
    """Replace the functions that an installed package has.

    Args:
        choice: From theirs and ours, what is put there.
    """
    replacement = Replacement()
    for name, functions in contents.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for function, ours in functions.items():
            if hasattr(module, function):
                chosen = choice(getattr(module, function), ours)
                replacement.attribute(module, function, chosen)
    return replacement


def stand_in(contents: Contents) -> Replacement:
    """Let modules of these names be found where there are none."""
    replacement = Replacement()
    for name, functions in contents.items():
        module = ModuleType(name, "Stands in for it; see keelback.integrations.")
        module.__path__ = []
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__keelback__ = True  # type: ignore[attr-defined]
        for function, ours in functions.items():
            setattr(module, function, ours)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        replacement.module(name, module)
    return replacement
