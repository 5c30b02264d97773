"""What the commands take, read from their signatures: for messages, for tests and for fuzzing."""

import enum
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Parameter:
    """An option or argument of a command.

    Attributes:
        name: "--seq-len", or the argument's name.
        names: an option's `name`, and the other names that it goes by.
        flags: of an option without a value, how it is turned on and off.
        kind: the type of a value.
        default: its value where it is not given; `...` where it must be.
        choices: its only values; none where it takes any of its type.
    """

    name: str
    names: tuple[str, ...]
    flags: tuple[str, ...]
    kind: type
    default: Any
    help: str
    min: float | None
    max: float | None
    choices: tuple[str, ...]

    @property
    def is_argument(self) -> bool:
        """Whether it has a place instead of a name."""
        return not self.name.startswith("-")

    @property
    def expected(self) -> str:
        """What a value should be, in words: "a whole number, 1 or more"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {int: "a whole number", float: "a number"}.get(self.kind, "text")
        if self.min is None and self.max is None:
            return words
        if self.max is None:
            return f"{words}, {_short(self.min)} or more"
        if self.min is None:
            return f"{words}, {_short(self.max)} or less"
        return f"{words} from {_short(self.min)} to {_short(self.max)}"

    def takes(self, text: str) -> bool:
        """Whether `text` is a value that the option can have."""
        if self.choices:
            return text in self.choices
        if self.kind not in (int, float):
            return True
        try:
            number = self.kind(text)
        except ValueError:
            return False
        least = -math.inf if self.min is None else self.min
        most = math.inf if self.max is None else self.max
        return bool(least <= number <= most) and (self.kind is float or abs(number) <= _LARGEST)


def _short(number: float | None) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def commands() -> dict[str, list[Parameter]]:
    """The parameters of each command, by its name, "bench scan" for one of a group."""
    from keelback.cli.app import app, load_commands

    load_commands()
    return {
        name: [_parameter(one) for one in signature.parameters.values()]
        for name, signature in _signatures(app, "")
    }


def parameter_of(command: Callable[..., Any], name: str) -> Parameter:
    """The option that a command's function takes as `name`."""
    return _parameter(inspect.signature(command, eval_str=True).parameters[name])


def _signatures(group: typer.Typer, prefix: str) -> Iterator[tuple[str, inspect.Signature]]:
    for command in group.registered_commands:
        callback = command.callback
        assert callback is not None
        name = command.name or callback.__name__.replace("_", "-")
        yield prefix + name, inspect.signature(callback, eval_str=True)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _signatures(inner.typer_instance, f"{prefix}{inner.name} ")


def _parameter(parameter: inspect.Parameter) -> Parameter:
    kind, info = typing.get_args(parameter.annotation)
    assert isinstance(info, OptionInfo | ArgumentInfo)
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    # Typer takes the first name of an option for a default, where that stands elsewhere.
    given = (info.default, *(info.param_decls or ()))
    declared = [name for name in given if isinstance(name, str) and name.startswith("-")]
    own = parameter.name.replace("_", "-")
    names = declared or [own if isinstance(info, ArgumentInfo) else f"--{own}"]
    bare, choices = _bare(kind)
    flags = tuple(name for both in names for name in both.split("/")) if bare is bool else ()
    return Parameter(
        names[0], tuple(names), flags, bare, default, info.help or "", info.min, info.max, choices
    )


def _bare(kind: Any) -> tuple[type, tuple[str, ...]]:
    """The type of one value, `int` for `list[int] | None`, and the words that it must be one of."""
    if isinstance(kind, types.UnionType):
        [kind] = [one for one in typing.get_args(kind) if one is not type(None)]
    if typing.get_origin(kind) is list:
        [kind] = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return str, typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind, tuple(str(one.value) for one in kind)
    return kind, ()
