"""What the commands of keelback take, read from their signatures, for tests and for fuzzing."""

import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

from keelback.cli.app import app, load_commands


@dataclass(frozen=True)
class Parameter:
    """An option or argument of a command.

    Attributes:
        name: "--seq-len", or the argument's name.
        flags: of an option without a value, how it is turned on and off.
        kind: the type of a value.
        default: its value where it is not given; `...` where it must be.
    """

    name: str
    flags: tuple[str, ...]
    kind: type
    default: Any
    help: str
    min: float | None
    max: float | None

    @property
    def is_argument(self) -> bool:
        """Whether it has a place instead of a name."""
        return not self.name.startswith("-")


def commands() -> dict[str, list[Parameter]]:
    """The parameters of each command, by its name, "bench scan" for one of a group."""
    load_commands()
    return _commands(app, "")


def _commands(group: typer.Typer, prefix: str) -> dict[str, list[Parameter]]:
    found = {}
    for command in group.registered_commands:
        callback = command.callback
        assert callback is not None
        name = command.name or callback.__name__.replace("_", "-")
        signature = inspect.signature(callback, eval_str=True)
        found[prefix + name] = [_parameter(one) for one in signature.parameters.values()]
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        found |= _commands(inner.typer_instance, f"{prefix}{inner.name} ")
    return found


def _parameter(parameter: inspect.Parameter) -> Parameter:
    kind, info = typing.get_args(parameter.annotation)
    assert isinstance(info, OptionInfo | ArgumentInfo)
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    # Typer takes the first name of an option for a default, where that stands elsewhere.
    given = (info.default, *(info.param_decls or ()))
    declared = [name for name in given if isinstance(name, str) and name.startswith("-")]
    own = parameter.name.replace("_", "-")
    names = declared or [own if isinstance(info, ArgumentInfo) else f"--{own}"]
    bare = _bare(kind)
    flags = tuple(name for both in names for name in both.split("/")) if bare is bool else ()
    return Parameter(names[0], flags, bare, default, info.help or "", info.min, info.max)


def _bare(kind: Any) -> type:
    """The type of one value: `int` for `list[int] | None`, `str` for some words."""
    if isinstance(kind, types.UnionType):
        [kind] = [one for one in typing.get_args(kind) if one is not type(None)]
    if typing.get_origin(kind) is list:
        [kind] = typing.get_args(kind)
    bare: type = str if typing.get_origin(kind) is typing.Literal else kind
    return bare
