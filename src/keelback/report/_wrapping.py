"""Text as Matplotlib draws it: literal, and broken into lines of a measured width."""

from __future__ import annotations

from functools import lru_cache

from keelback.errors import printable
from keelback.report._geometry import shortened

NOTE = 7
"""The size of captions and of labels of marks, in points."""


def literal(text: str, longest: int = 60) -> str:
    """`text` as Matplotlib shows it literally: no mathematics, no label hidden by an underscore."""
    shown = shortened(printable(text), longest).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def wrapped(
    text: str, inches: float, size: float, weight: str = "normal", longest: int = 200
) -> list[str]:
    """The lines of `text`, as wide as `inches` at `size` points; one too long a word is cut."""
    lines: list[str] = []
    for word in literal(text, longest).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer, size, weight) <= inches:
            lines[-1] = longer
        else:
            lines += _pieces(word, inches, size, weight)
    return lines


def _pieces(word: str, inches: float, size: float, weight: str) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and width(pieces[-1] + letter, size, weight) > inches:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def width(text: str, size: float, weight: str = "normal") -> float:
    """How wide `text` is drawn, in inches, in the font in force."""
    from matplotlib import rcParams

    return _width(text, size, weight, tuple(rcParams["font.family"]))


@lru_cache(maxsize=4096)
def _width(text: str, size: float, weight: str, family: tuple[str, ...]) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family=list(family), size=size, weight=weight)
    across, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(across) / 72
