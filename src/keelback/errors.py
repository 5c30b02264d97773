"""The errors that keelback raises for people: what was wrong, where, and what would be right."""

import difflib
import unicodedata
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel, ValidationError


class InputError(ValueError):
    """The input was wrong. The command line prints the message on one line and exits with 2.

    Examples:
        >>> raise InputError("d_model is -1; it should be 1 or more")
        Traceback (most recent call last):
            ...
        keelback.errors.InputError: d_model is -1; it should be 1 or more
    """


class PluginError(InputError):
    """A part from outside keelback went wrong; the message names its file and line.

    Examples:
        >>> raise PluginError("brackets.py:12: labels must be 0 or 1")
        Traceback (most recent call last):
            ...
        keelback.errors.PluginError: brackets.py:12: labels must be 0 or 1
    """


class JobError(RuntimeError):
    """The input was right and the job failed. The command line prints why and exits with 1.

    Examples:
        >>> raise JobError("a worker process was killed")
        Traceback (most recent call last):
            ...
        keelback.errors.JobError: a worker process was killed
    """


def printable(text: str) -> str:
    """`text` on one line, its control and direction-changing characters shown as "�".

    Examples:
        >>> printable("a bell:" + chr(7))
        'a bell:�'
    """
    return "".join(
        "�" if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} or c in _DIRECTION else c
        for c in " ".join(text.replace("\t", " ").splitlines())
    )


_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def nearest(name: str, names: "list[str] | tuple[str, ...]") -> str:
    """`; did you mean X?` where one of `names` begins with `name` or is close to it, else nothing.

    Examples:
        >>> nearest("majorty", ["imdb", "majority"])
        '; did you mean majority?'
        >>> nearest("repro", ["report", "reproduce"])
        '; did you mean reproduce?'
        >>> nearest("zebra", ["imdb", "majority"])
        ''
    """
    longer = [one for one in names if len(name) > 2 and one.startswith(name)]
    close = longer or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type if it says nothing.

    Examples:
        >>> first_line(RuntimeError("no memory\\nmore"))
        'no memory'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_one_line(error: BaseException) -> str:
    """Any error in one line of printable text: its type, and what it says of itself.

    Examples:
        >>> in_one_line(ValueError("d_model is -1"))
        'ValueError: d_model is -1'
    """
    try:
        text = str(error)
    except Exception:
        text = ""
    text = "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
    said = " ".join(text.split())
    if isinstance(error, InputError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_LONGEST = 500
"""Characters of an error of other people's code that are shown."""


def describe(error: "ValidationError", model: "type[BaseModel] | None" = None) -> str:
    """A pydantic error in one line: each field, what it was and what would be right.

    With the `model` that was validated, an unknown field is told the nearest that there is.

    Examples:
        >>> from keelback.models import SelectiveSSMConfig
        >>> from pydantic import ValidationError
        >>> try:
        ...     SelectiveSSMConfig(vocab_size=0)
        ... except ValidationError as error:
        ...     print(describe(error))
        vocab_size is 0; it should be more than 0
    """
    parts = []
    problems = error.errors()
    places = [problem["loc"] for problem in problems]
    for problem in problems:
        where = problem["loc"]
        if any(where == place[: len(where)] != place for place in places):
            continue  # What is wrong inside says more.
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            *path, unknown = problem["loc"]
            close = nearest(str(unknown), _fields_at(model, path)) if model else ""
            parts.append(f"there is no field {field}{close}")
        elif problem["type"] == "missing":
            parts.append(f"{field} is missing")
        elif isinstance(problem.get("ctx", {}).get("error"), InputError):
            parts.append(problem["msg"].removeprefix("Value error, "))
        else:
            message = _wanted(problem["type"], problem.get("ctx", {}), problem["msg"])
            parts.append(f"{field} is {_cut(problem['input'])}; {message}" if field else message)
    return "; ".join(parts)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "decimal": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object of names and values",
    "model": "an object of names and values",
    "none_required": "nothing",
}
"""What a value should be, by the beginning of the type of pydantic's problem with it."""
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "literal_error": ("one of", "expected"),
    "enum": ("one of", "expected"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
"""The same for problems that hold a limit: what is said before it, and its name."""


def _wanted(kind: str, details: "Mapping[str, Any]", said: str) -> str:
    """What would be right, from the type of pydantic's problem and its details."""
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        return f"it should be {words} {details[name]}"
    own = next((words for start, words in _KINDS.items() if kind.startswith(start)), None)
    if kind in ("too_short", "too_long"):
        least, most = details.get("min_length"), details.get("max_length")
        return f"it should hold {f'at least {least}' if least is not None else f'at most {most}'}"
    if own is not None:
        return f"it should be {own}"
    message = said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]


def _cut(value: object) -> str:
    """A value as people read it, without the inside of what is long."""
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 3] + "..."


_LONGEST_VALUE = 120
"""Characters of a wrong value that are shown."""


def _fields_at(model: "type[BaseModel]", path: "list[int | str]") -> list[str]:
    """The fields of the model that lies at `path` inside `model`."""
    for name in path:
        field = model.model_fields.get(str(name))
        inner = field.annotation if field else None
        if not hasattr(inner, "model_fields"):
            return []
        model = cast("type[BaseModel]", inner)
    return list(model.model_fields)
