"""The figures that arXiv 2502.01473 and the logs of its reference implementation give."""

import functools
import json
from importlib.resources import files
from typing import Any


@functools.cache
def _published() -> dict[str, Any]:
    text = files("keelback.experiments._shared").joinpath("published.json").read_text()
    return dict(json.loads(text))


def published_accuracy(task: str, seq_len: int) -> dict[str, float] | None:
    """`train`, `test`, their standard deviations and the number of `runs`, where published."""
    rows = _published()["length_independence"].get(task, [])
    return next((row for row in rows if row["seq_len"] == seq_len), None)


def published_margin(task: str, seq_len: int, abscissa: float) -> list[dict[str, float]]:
    """`s_A` and `loss` after the last of the `epochs` that each published run logged."""
    rows = _published()["stability_margin"].get(task, [])
    return [row for row in rows if (row["seq_len"], row["abscissa"]) == (seq_len, abscissa)]
