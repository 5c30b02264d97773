"""Putting functions and modules in place of others, so that it can be undone."""

import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Self

from keelback.integrations._recompute import is_ours, is_waited_for, ours_or_theirs


class Replacement:
    """What a call put in place: `undo()` takes it back, and so does leaving a `with` block.

    Undo replacements of the same thing in the reverse order of their making.

    Examples:
        >>> replacement = use_in_transformers()  # from here on
        >>> isinstance(replacement, Replacement)
        True
        >>> replacement.undo()
    """

    def __init__(self) -> None:
        self._restore: list[Callable[[], None]] = []
        #: What was replaced, by its full name.
        self.names: list[str] = []

    def attribute(self, owner: ModuleType | type, name: str, value: Any) -> None:
        """Replace `owner.name`."""
        original = getattr(owner, name)
        self._restore.append(lambda: setattr(owner, name, original))
        self.names.append(f"{owner.__name__}.{name}")
        setattr(owner, name, value)

    def function(self, owner: ModuleType | type, name: str, ours: Callable[..., Any]) -> None:
        """Replace a function of a module, or of a class in one; checkpointed calls of either are
        run again by the same."""
        before = getattr(owner, name)
        both = ours_or_theirs(ours, before)
        within = f"{owner.__module__}." if isinstance(owner, type) else ""
        self.names.append(f"{within}{owner.__name__}.{name}")

        def restore() -> None:
            after = both.late if is_waited_for() else both.theirs
            setattr(owner, name, before if is_ours(before) else after)

        self._restore.append(restore)
        setattr(owner, name, both.now)

    def module(self, name: str, module: ModuleType) -> None:
        """Make `import name` find a module that is not there otherwise."""
        self._restore.append(lambda: _forget(name))
        self.names.append(name)
        sys.modules[name] = module

    def undo(self) -> None:
        """Put everything back. A second call does nothing."""
        while self._restore:
            self._restore.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


def _forget(module: str) -> None:
    sys.modules.pop(module, None)
