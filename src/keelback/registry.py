"""Parts by name: those of keelback, of installed packages, and of files and scripts of one's own.

Each room that takes parts from outside (tasks, models, adapters, experiments) has one `Registry`.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from keelback.errors import InputError, PluginError, in_one_line

_OURS = __name__.partition(".")[0]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

T = TypeVar("T")


class PluginWarning(UserWarning):
    """A part of an installed package cannot be used; nothing has asked for it by name."""


class Registry(Mapping[str, T]):
    """The known parts of one kind, by name.

    As a mapping it has the parts that were registered and, after them, those that installed
    packages offer as entry points. An entry point is imported when its part is first asked for.

    Args:
        word: what one part is called, in messages.
        group: the entry points' group, such as "keelback.tasks"; none if not given.
        register: what an entry point's object is given to; it ends in `add`.
    """

    every: ClassVar[list["Registry[Any]"]] = []
    imported: ClassVar[set[str]] = set()
    """The packages of which an entry point was imported."""

    def __init__(
        self, word: str, group: str | None = None, register: Callable[[Any], Any] | None = None
    ) -> None:
        self.word = word
        self._article = "an" if word[0] in "aeiou" else "a"
        self._group, self._register = group, register
        self._parts: dict[str, T] = {}
        self._installed: dict[str, list[EntryPoint]] | None = None
        self._broken: dict[str, PluginError] = {}
        self.every.append(self)

    def add(self, name: str, part: T) -> None:
        """Make a part known. The same part may come again, changed: in a notebook, say.

        Raises:
            InputError: the name is none, or another part has it.
        """
        require_name(self.word, name)
        others = [known for known in (self._parts.get(name),) if known is not None]
        if any(_identity(known) != _identity(part) for known in others):
            raise InputError(
                f"there is already {self._article} {self.word} named {name!r}, "
                f"{whence(others[0])}; give this one another name"
            )
        if is_from_outside(part):
            for point in self._offers().get(name, []):
                if package_of(point.module) != package_of(definition(part).__module__):
                    raise InputError(
                        f"there is already {self._article} {self.word} named {name!r}, of the "
                        f"installed package {_package(point)}; give this one another name"
                    )
        self._parts[name] = part

    @classmethod
    def of(cls, word: str) -> "Registry[Any]":
        """The registry of the parts that are called so."""
        return next(registry for registry in cls.every if registry.word == word)

    def register(self, part: Any) -> None:
        """Do what the decorator of this kind of part does."""
        if self._register is not None:
            self._register(part)

    def discard(self, belongs: Callable[[T], bool]) -> None:
        """Forget the parts of which this is true."""
        self._parts = {name: part for name, part in self._parts.items() if not belongs(part)}

    def registered(self) -> dict[str, T]:
        """The parts that were registered by now, without those that packages offer."""
        return dict(self._parts)

    def load_all(self) -> list[str]:
        """Import what packages offer; gives what is wrong with those that cannot be used."""
        problems = []
        for name, points in self._offers().items():
            try:
                part = self[name]
            except PluginError as error:
                problems.append(str(error))
                continue
            mine = package_of(definition(part).__module__)
            problems += [
                f"the {self.word} {name!r} of the installed package {_package(point)} is not used: "
                f"there is one of this name, {whence(part)}"
                for point in points
                if package_of(point.module) != mine
            ]
        return problems

    def __getitem__(self, name: str) -> T:
        if name not in self._parts:
            self._load(name)
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._offers()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._parts, *(name for name in self._offers() if name not in self._parts)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _offers(self) -> dict[str, list[EntryPoint]]:
        """The entry points by name, more than one where packages compete for a name."""
        if self._installed is None:
            self._installed = {}
            for point in entry_points(group=self._group) if self._group else ():
                self._installed.setdefault(point.name, []).append(point)
        return self._installed

    def _load(self, name: str) -> None:
        """Import the part that a package offers under this name, if any does."""
        if name in self._broken:
            raise self._broken[name]
        points = self._offers().get(name)
        if points is None:
            return
        try:
            self._import(name, points)
        except PluginError as error:
            self._broken[name] = error
            raise

    def _import(self, name: str, points: list[EntryPoint]) -> None:
        if len(points) > 1:
            packages = " and ".join(sorted(_package(point) for point in points))
            raise PluginError(f"{packages} both have a {self.word} {name!r}; uninstall one of them")
        [point] = points
        self.imported.add(package_of(point.module))
        try:
            found = point.load()
            if name not in self._parts:
                self.register(found)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            ours = package_of(point.module)
            where = place_in(error.__traceback__, lambda module: package_of(module) == ours)
            raise PluginError(
                f"{where + ': ' if where else ''}the {self.word} {name!r} of the installed package "
                f"{_package(point)} cannot be loaded: {in_one_line(error)}"
            ) from error
        if name not in self._parts:
            raise PluginError(
                f"the entry point {name} of the installed package {_package(point)} gives a "
                f"{self.word} of another name"
            )


def require_name(word: str, name: object) -> None:
    """Check that a part has a name that can be typed and can be part of a file's name.

    Raises:
        InputError: it has not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith(".py"):
        raise InputError(
            f"the name of a {word} is {name!r}; it should be letters, digits, '-', '_' and '.', "
            "and not end in .py"
        )


def definition(part: object) -> type:
    """The class that a part is, or is an instance of."""
    return part if isinstance(part, type) else type(part)


def is_from_outside(part: object) -> bool:
    """Whether a part does not come with keelback itself."""
    return package_of(definition(part).__module__) != _OURS


def whence(part: object) -> str:
    """Where a part comes from, for a message: `built in`, or its file."""
    if not is_from_outside(part):
        return "built in"
    module = definition(part).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"of {shown(file)}" if file else f"of the module {module}"


def package_of(module: str) -> str:
    """The outermost package of a module."""
    return module.partition(".")[0]


def shown(file: str | Path) -> str:
    """A file's path, from the working directory where the file lies below that."""
    inside = os.path.relpath(file)
    return str(file) if inside.startswith("..") else inside


def place_in(traceback: TracebackType | None, belongs: Callable[[str], bool]) -> str | None:
    """`FILE:LINE` of the innermost call in a module to which `belongs` says yes."""
    place = None
    while traceback is not None:
        frame = traceback.tb_frame
        if belongs(str(frame.f_globals.get("__name__", ""))):
            place = f"{shown(frame.f_code.co_filename)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _identity(part: object) -> tuple[str, str]:
    """What two versions of one part share: the file, or the module of a session, and the class."""
    made = definition(part)
    file = getattr(sys.modules.get(made.__module__), "__file__", None)
    return str(file or made.__module__), made.__qualname__


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
