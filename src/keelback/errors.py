"""The errors that keelback raises for people: what was wrong, where, and what would be right."""

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """The input was wrong. The command line prints the message on one line and exits with 2."""


class JobError(RuntimeError):
    """The input was right and the job failed. The command line prints why and exits with 1."""


def nearest(name: str, names: "list[str] | tuple[str, ...]") -> str:
    """`; did you mean X?` where one of `names` is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def describe(error: "ValidationError") -> str:
    """A pydantic error in one line: each field, what it was and what would be right."""
    parts = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parts.append(f"there is no field {field}")
        elif problem["type"] == "missing":
            parts.append(f"{field} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            parts.append(f"{field} is {problem['input']!r}; {message}" if field else message)
    return "; ".join(parts)
