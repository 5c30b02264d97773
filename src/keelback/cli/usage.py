"""What is wrong with the words of a command line, in keelback's own words.

Those of the parser differ between the releases of Typer, and seldom say what was given.
"""

from collections.abc import Sequence
from typing import Any

from keelback.cli.parameters import Parameter, commands
from keelback.errors import InputError, nearest


def usage_message(error: Any, arguments: Sequence[str]) -> str:
    """What the parser's error says, for people.

    Args:
        error: a usage error of the Click that Typer uses or carries.
        arguments: the words of the command line.
    """
    known = commands()
    command = _command(error, arguments, known)
    parameters = known.get(command, [])
    kind = type(error).__name__
    said = str(error.message)
    program = " ".join(["keelback", *command.split()])
    if kind == "NoSuchOption":
        names = [name for one in parameters for name in (one.flags or one.names)]
        near = nearest(error.option_name, [*names, "--plugin", "--quiet", "--debug"])
        return f"there is no option {error.option_name}{_help_after(near, program)}"
    if kind == "NoSuchCommand" or said.startswith("No such command"):
        return _no_command(command, said, known)
    if kind == "BadOptionUsage":
        takes_none = "does not take" in said
        return f"{error.option_name} {'takes no value' if takes_none else 'needs a value'}"
    parameter = _parameter(error, parameters)
    if kind == "MissingParameter" and parameter is not None:
        name = parameter.name.upper() if parameter.is_argument else parameter.name
        what = parameter.help.rstrip(".")
        return f"{name} is missing: {what[:1].lower()}{what[1:]}"
    if kind == "BadParameter" and parameter is not None:
        return _bad_value(parameter, said, arguments)
    if "unexpected extra argument" in said:
        words = said.partition("(")[2].partition("(")[2] or said.partition("(")[2]
        return f"too many arguments: {words.rstrip(')')}; {program} --help shows which it takes"
    return said


def require_words(arguments: Sequence[str]) -> None:
    """Refuse an empty word, which a script passes for a variable that is not set.

    As a path it would be the current folder, as a name it would select everything or nothing.

    Raises:
        InputError: a word of the command line, or the value behind "=" in it, is empty.

    Examples:
        >>> require_words(["audit", ""])
        Traceback (most recent call last):
        keelback.errors.InputError: an argument of `keelback audit` is empty
    """
    for before, word in zip(["", *arguments], arguments, strict=False):
        name, equals, value = word.partition("=")
        if word == "" and before.startswith("-") and "=" not in before:
            raise InputError(f"the value of {before} is empty")
        if word == "":
            raise InputError(
                f"an argument of `{' '.join(['keelback', *arguments[:1]]).strip()}` is empty"
            )
        if equals and not value and name.startswith("--"):
            raise InputError(f"the value of {name} is empty")


def _command(error: Any, arguments: Sequence[str], known: dict[str, list[Parameter]]) -> str:
    """The command that the error is about; empty where the words name none."""
    if error.ctx is not None:
        return str(error.ctx.command_path).removeprefix("keelback").strip()
    words = [word for word in arguments if not word.startswith("-")]
    for count in (2, 1):
        if " ".join(words[:count]) in known:
            return " ".join(words[:count])
    return ""


def _no_command(group: str, said: str, known: dict[str, list[Parameter]]) -> str:
    """That `group`, or the program itself, has no such command; the parser quotes which."""
    given = said.partition("'")[2].rpartition("'")[0].partition("'. Did you")[0]
    prefix = f"{group} " if group else ""
    names = {name.removeprefix(prefix).split()[0] for name in known if name.startswith(prefix)}
    program = f"keelback {group}".rstrip()
    near = nearest(given, sorted(names))
    return f"there is no command {given!r}{_help_after(near, program)}"


def _help_after(near: str, program: str) -> str:
    """`near`, if there is anything near, and where to find all that there are."""
    return f"{near}{'' if near else ';'} {program} --help shows all"


def _parameter(error: Any, parameters: Sequence[Parameter]) -> Parameter | None:
    """The parameter that the error is about, if it is one of the command's own."""
    about = getattr(error, "param", None)
    if about is None:
        return None
    names = {str(name).lower() for name in (*about.opts, about.name)}
    own = (one for one in parameters if names & {*one.names, one.name.replace("-", "_")})
    return next(own, None)


def _bad_value(parameter: Parameter, said: str, arguments: Sequence[str]) -> str:
    wrong = [text for text in _given(parameter, arguments) if not parameter.takes(text)]
    if not wrong:
        return f"{parameter.name}: {said}"
    near = nearest(wrong[0], list(parameter.choices))
    value = wrong[0] if _is_number(wrong[0]) else repr(wrong[0])
    return f"{parameter.name} is {value}; it should be {parameter.expected}{near}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isprintable()


def _given(parameter: Parameter, arguments: Sequence[str]) -> list[str]:
    """Every value of an option among the words of a command line."""
    values = []
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in parameter.names:
            values.append(value if equals else "".join(arguments[place + 1 : place + 2]))
    return values
