"""A figure as data in a file: its numbers to read, and all that is needed to draw it again."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from keelback.errors import InputError, describe
from keelback.outcome import Figure
from keelback.report._files import file_stem, writable_directory, write_file


def save_figure_data(
    figure: Figure, directory: str | os.PathLike[str], stem: str | None = None
) -> Path:
    """Write what `figure` is drawn from into `directory` as JSON; return the path.

    The file is named after the figure, or `stem`. It holds the fields of `keelback.outcome.Figure`
    that differ from their defaults; a number that is not finite is the text "nan", "inf" or
    "-inf". Raises `InputError` where the directory cannot be written to.

    Examples:
        >>> from keelback.outcome import Figure, Line, Panel
        >>> panel = Panel("length", "test accuracy", lines=[Line([25, 50], [0.91, 0.92])])
        >>> save_figure_data(Figure("length", "Accuracy against length", [panel]), "figures").name
        'length.json'
    """
    folder = writable_directory(directory)
    stem = file_stem(figure.name) if stem is None else stem
    text = json.dumps(_plain(figure), ensure_ascii=False, allow_nan=False)
    return write_file(folder / f"{stem}.json", text.encode() + b"\n")


def load_figure(path: str | os.PathLike[str]) -> Figure:
    """The figure that a file of `save_figure_data` holds.

    Raises:
        InputError: there is no such file, or it holds something else.

    Examples:
        >>> from keelback.outcome import Figure, Line, Panel
        >>> panel = Panel("length", "test accuracy", lines=[Line([25, 50], [0.91, 0.92])])
        >>> figure = Figure("length", "Accuracy against length", [panel])
        >>> load_figure(save_figure_data(figure, "figures")) == figure
        True
    """
    try:
        return TypeAdapter(Figure).validate_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValidationError as error:
        raise InputError(f"{str(path)!r} does not hold a figure: {describe(error)}") from None


def _plain(value: Any) -> Any:
    """The value in types of JSON, without fields that have their default."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) is not field.default
        }
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    number = cast(float, value.item() if hasattr(value, "item") else value)
    return number if isinstance(number, int) or math.isfinite(number) else str(number)
