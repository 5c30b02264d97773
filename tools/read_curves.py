"""Read the curves of old drawings of a gate back out of their committed PDF files.

    python tools/read_curves.py

The runs behind these drawings are gone, and `results.json` holds their ends alone; but a PDF holds
each point with nine digits. The ends of what was read are compared with those of `results.json`.
The data go to FIGURE.json beside the drawing, worded by today's code, and `results.json` notes
under `read_back` which file they came from and how well they agree. The drawings stay as they are.
"""

import json
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keelback.commit import require_clean
from keelback.experiments.second_paper.gated_experiment import GatedSettings
from keelback.experiments.second_paper.locality import LocalityExperiment, _series
from keelback.experiments.second_paper.locality_gate import gate_figure, near_of
from keelback.files import write_json
from keelback.report import save_figure_data
from keelback.sweeps import provenance
from keelback.sweeps.store import StoredRun

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "experiments"
AGREES = 1e-6
"""How far an end that was read may be from that of `results.json`, relative to the largest."""
BANDED = ("o_plus", "o_minus", "irrelevant_mean")
CURVES = (*BANDED, "irrelevant_least", "irrelevant_most")
"""In the order in which they are drawn."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass
class Axes:
    """One pair of axes: its labelled ticks, and its bands and lines in drawing order."""

    ticks: dict[str, list[Point]] = field(default_factory=lambda: {"x": [], "y": []})
    bands: list[list[Point]] = field(default_factory=list)
    lines: list[list[Point]] = field(default_factory=list)


@dataclass(frozen=True)
class ReadRun(StoredRun):
    """A run with the course that was read."""

    rows: tuple[dict[str, Any], ...] = ()

    def history(self) -> list[dict[str, Any]]:
        return list(self.rows)


_NUMBER = r"-?\d*\.?\d+"
_TOKEN = re.compile(rf"\((?:\\.|[^\\)])*\)|[\[\]]|/[^\s/\[\]()]+|{_NUMBER}|[A-Za-z*]+", re.DOTALL)


def read(pdf: bytes) -> list[Axes]:
    """The axes of a drawing by Matplotlib, from left to right."""
    axes: dict[Box, Axes] = {}
    saved: list[Box | None] = []
    clip: Box | None = None
    box: Box = (0.0, 0.0, 0.0, 0.0)
    given: list[str] = []
    path: list[Point] = []
    tick: tuple[str, Point] | None = None
    text = ""
    for token in _TOKEN.findall(_content(pdf)):
        if token[0] in "([]/" or re.fullmatch(_NUMBER, token):
            given.append(token)
            continue
        last = [float(word) for word in given if re.fullmatch(_NUMBER, word)]
        if token == "q":
            saved.append(clip)
        elif token == "Q":
            clip = saved.pop()
        elif token == "re":
            box = (last[0], last[1], last[2], last[3])
        elif token == "W":
            clip = box
            axes.setdefault(clip, Axes())
        elif token == "m":
            path = [(last[-2], last[-1])]
        elif token == "l":
            path.append((last[-2], last[-1]))
        elif token in ("S", "B", "f", "n"):
            if token == "B":
                tick = _tick(path) or tick
            elif clip is not None and len(path) > 8:
                (axes[clip].bands if token == "f" else axes[clip].lines).append(path)
            path = []
        elif token == "BT":
            text = ""
        elif token in ("Tj", "TJ"):
            text += "".join(_letters(word) for word in given if word[0] == "(")
        elif token == "ET":
            if tick is not None:
                _place(tick, float(text.replace("\0", "-")), axes)  # The minus is of another font.
            tick = None
        given = []
    return [axes[box] for box in sorted(axes) if axes[box].lines]


def _content(pdf: bytes) -> str:
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            found.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    return max((part for part in found if b" re W n" in part), key=len).decode("latin1")


def _tick(path: list[Point]) -> tuple[str, Point] | None:
    if len(path) != 2:
        return None
    (ax, ay), (bx, by) = path
    long = abs(abs(ax - bx) + abs(ay - by) - 2.5) < 1e-5
    return ("x" if ax == bx else "y", (ax, ay)) if long else None


def _letters(word: str) -> str:
    raw = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word[1:-1])
    raw = re.sub(r"\\(.)", r"\1", raw, flags=re.DOTALL)
    return raw.encode("latin1").decode("utf-16-be") if len(raw) % 2 == 0 else raw


def _place(tick: tuple[str, Point], value: float, axes: dict[Box, Axes]) -> None:
    axis, (x, y) = tick
    for left, low, width, height in list(axes):
        at, start = (y, low) if axis == "x" else (x, left)
        along, first, long = (x, left, width) if axis == "x" else (y, low, height)
        if abs(at - start) < 1e-3 and first - 1e-3 <= along <= first + long + 1e-3:
            axes[left, low, width, height].ticks[axis].append((along, value))


def _scale(ticks: list[Point]) -> Callable[[float], float]:
    """From places to values, by a line through the labelled ticks."""
    places, values = (np.array(part) for part in zip(*ticks, strict=True))
    slope, start = np.polyfit(places, values, 1)
    assert np.abs(slope * places + start - values).max() < 1e-6 * np.ptp(values)
    return lambda place: float(f"{slope * place + start:.9g}")


def history(axes: Axes) -> tuple[dict[str, Any], ...]:
    """Three rows per epoch, whose least, median and most are the curves."""
    x, y = _scale(axes.ticks["x"]), _scale(axes.ticks["y"])
    epochs = [round(x(place)) for place, _ in axes.lines[0]]
    rows = {(epoch, i): {"seed": i, "epoch": epoch} for epoch in epochs for i in range(3)}
    for key, line in zip(CURVES, axes.lines, strict=True):
        values = [[y(place)] * 3 for _, place in line]
        if key in BANDED:
            for ends, edge in zip(values, _edges(axes.bands[BANDED.index(key)]), strict=True):
                ends[0], ends[2] = sorted(map(y, edge))
        for epoch, ends in zip(epochs, values, strict=True):
            for i, value in enumerate(ends):
                rows[epoch, i][f"projection_{key}"] = value
    return tuple(rows.values())


def _edges(band: list[Point]) -> list[tuple[float, float]]:
    """Both edges of a band: its outline goes along one, and back along the other."""
    count = len(band) // 2 - 1
    along, back = band[1 : count + 1], band[count + 2 :][:count][::-1]
    assert [x for x, _ in along] == [x for x, _ in back]
    return [(a, b) for (_, a), (_, b) in zip(along, back, strict=True)]


def main() -> None:
    require_clean(RESULTS, allow_dirty="--allow-dirty" in sys.argv)
    record = provenance(command=shlex.join(["python", "tools/read_curves.py", *sys.argv[1:]]))
    experiment = LocalityExperiment()
    for setting in ("paper", "theorem"):
        folder, stem = RESULTS / f"locality-{setting}", f"locality-alignment-{setting}"
        pdf = folder / "figures" / f"{stem}.pdf"
        result = json.loads((folder / "results.json").read_text())
        ends = result["outcomes"][folder.name]["alignment"]
        settings = GatedSettings(setting=setting)
        runs = [run for run in experiment.runs(settings) if run.record == "course"]
        pairs, miss = [], 0.0
        for run, known, axes in zip(runs, ends, read(pdf.read_bytes()), strict=True):
            assert near_of(run) == known["near"]
            rows = history(axes)
            last = [row for row in rows if row["epoch"] == known["epochs"]]
            for key in BANDED:
                found = [row[f"projection_{key}"] for row in last]
                aims = known[f"projection_{key}"]
                off = max(abs(min(found) - aims[0]), abs(max(found) - aims[1]))
                miss = max(miss, off / max(map(abs, aims)))
            stored = ReadRun(run.name, RESULTS, run.fields(), summary={}, provenance={}, rows=rows)
            pairs.append((run, stored))
        assert miss < AGREES, miss
        title = "Locality: alignment of the gating vector"
        save_figure_data(gate_figure(stem, title, pairs, _series(runs[0])), folder / "figures")
        log = ["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", str(pdf)]
        drawn_by = subprocess.run(log, capture_output=True, text=True, check=True).stdout.strip()
        result.setdefault("read_back", {})[stem] = {
            "from": f"git show {drawn_by}:{pdf.relative_to(ROOT)}",
            "largest_relative_difference": miss,
            **record,
        }
        write_json(folder / "results.json", result)
        print(f"read   {folder.name}/{stem}: within {miss:.1e} of results.json")


if __name__ == "__main__":
    main()
