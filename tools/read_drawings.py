"""Read the numbers of old drawings back out of their committed PDF files, as data of the figures.

    python tools/read_drawings.py --data IMDB --tokenizer VOCAB

The runs behind these drawings are gone, and `results.json` holds their ends alone; but a PDF holds
each point with nine digits. What was read is compared with all that `results.json` holds of it. The
data go to FIGURE.json beside the drawing, worded by today's code, and `results.json` notes under
`read_back` which file they came from and how well they agree. The drawings stay as they are.
"""

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from keelback.commit import require_clean
from keelback.experiments.first_paper import length_independence, stability_margin
from keelback.experiments.first_paper import stable_by_construction as stable
from keelback.experiments.length import mamba_stack
from keelback.experiments.length import train_short_test_long as transfer
from keelback.experiments.measures import tables
from keelback.experiments.measures.design import KNOWN_BEFORE, TWIN
from keelback.files import write_json
from keelback.outcome import Figure
from keelback.report import save_figure_data
from keelback.sweeps import provenance
from keelback.sweeps.store import StoredRun

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "experiments"
AGREES = 1e-6
"""How far a number read may be from that of `results.json`, relative to the axis's largest."""

Numbers = dict[str, Any]
Point = tuple[float, float]
Series = list[Point]


@dataclass
class Axes:
    """One pair of axes: its box, its labelled ticks, and the series of markers in drawing order."""

    box: tuple[float, float, float, float]
    ticks: dict[str, list[Point]] = field(default_factory=lambda: {"x": [], "y": []})
    series: list[tuple[Any, Series]] = field(default_factory=list)

    def values(self) -> list[Series]:
        """The series in the units of the axes."""
        x, y = (_scale(self.ticks[axis]) for axis in ("x", "y"))
        return [[(x(px), y(py)) for px, py in own] for _, own in self.series]


@dataclass(frozen=True)
class ReadRun(StoredRun):
    """A run with the course that was read."""

    rows: tuple[dict[str, Any], ...] = ()

    def history(self) -> list[dict[str, Any]]:
        return list(self.rows)


def _scale(ticks: list[Point]) -> Callable[[float], float]:
    """From places to values, by a line through the labelled ticks or through their logarithms."""
    places, values = (np.array(part) for part in zip(*ticks, strict=True))
    fits = []
    for log in (False, True):
        if not (log and (values <= 0).any()):
            aims = np.log10(values) if log else values
            slope, start = np.polyfit(places, aims, 1)
            fits.append(
                (np.abs(slope * places + start - aims).max() / np.ptp(aims), log, slope, start)
            )
    miss, log, slope, start = min(fits)
    assert miss < 1e-8 or len(ticks) == 2
    return lambda p: float(f"{10 ** (slope * p + start) if log else slope * p + start:.9g}")


_NUMBER = r"-?\d*\.?\d+"
_TOKEN = re.compile(rf"\((?:\\.|[^\\)])*\)|[\[\]]|/[^\s/\[\]()]+|{_NUMBER}|[A-Za-z*]+", re.DOTALL)


def read(pdf: bytes) -> list[Axes]:
    """The axes of a drawing by Matplotlib."""
    axes: dict[Any, Axes] = {}
    saved: list[Any] = []
    given: list[str] = []
    clip, here, size = None, (0.0, 0.0), 0.0
    path: list[list[Point]] = []
    tick: tuple[str, Point] | None = None
    text: list[tuple[float, str]] = []
    for token in _TOKEN.findall(_content(pdf)):
        if token[0] in "([]/" or re.fullmatch(_NUMBER, token):
            given.append(token)
            continue
        last = [float(word) for word in given if re.fullmatch(_NUMBER, word)]
        if token == "q":
            saved.append((clip, here))
        elif token == "Q":
            clip, here = saved.pop()
        elif token == "re":
            box = (last[0], last[1], last[2], last[3])
        elif token == "W":
            clip = box
            axes.setdefault(clip, Axes(clip))
        elif token == "m":
            path.append([(last[-2], last[-1])])
        elif token == "l":
            path[-1].append((last[-2], last[-1]))
        elif token in ("S", "B", "f", "n"):
            tick = _tick(path) or tick if token == "B" else tick
            if token == "S" and clip is not None and [len(part) for part in path] == [1]:
                axes[clip].series.append(((), path[0]))  # A line of one point has no marker.
            path = []
        elif token == "cm":
            here = (here[0] + last[-2], here[1] + last[-1])
        elif token == "Do" and clip is not None:
            own = axes[clip].series
            if not own or own[-1][0] != given[-1]:
                own.append((given[-1], []))
            own[-1][1].append(here)
        elif token == "BT":
            text = []
        elif token == "Tf":
            size = last[-1]
        elif token in ("Tj", "TJ"):
            text.append((size, "".join(_letters(word) for word in given if word[0] == "(")))
        elif token == "ET":
            if tick is not None and (value := _value(text)) is not None:
                _place(tick, value, axes)
            tick = None
        given = []
    return [own for own in axes.values() if all(own.ticks.values())]


def _content(pdf: bytes) -> str:
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            found.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    return max((part for part in found if b" re W n" in part), key=len).decode("latin1")


def _tick(path: list[list[Point]]) -> tuple[str, Point] | None:
    if len(path) != 1 or len(path[0]) != 2:
        return None
    (ax, ay), (bx, by) = path[0]
    long = abs(abs(ax - bx) + abs(ay - by) - 2.5) < 1e-5
    return ("x" if ax == bx else "y", (ax, ay)) if long else None


def _letters(word: str) -> str:
    raw = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word[1:-1])
    raw = re.sub(r"\\(.)", r"\1", raw, flags=re.DOTALL)
    return raw.encode("latin1").decode("utf-16-be") if len(raw) % 2 == 0 else raw


def _value(text: list[tuple[float, str]]) -> float | None:
    """The number of a tick's label; a smaller second part is its exponent."""
    large = max(size for size, _ in text)
    base, power = (
        "".join(part for size, part in text if (size == large) == whole).replace("−", "-").strip()
        for whole in (True, False)
    )
    try:
        return float(base) ** float(power) if power else float(base)
    except ValueError:
        return None


def _place(tick: tuple[str, Point], value: float, axes: dict[Any, Axes]) -> None:
    axis, (x, y) = tick
    for left, low, width, height in list(axes):
        at, start = (y, low) if axis == "x" else (x, left)
        along, first, long = (x, left, width) if axis == "x" else (y, low, height)
        if abs(at - start) < 1e-3 and first - 1e-3 <= along <= first + long + 1e-3:
            axes[left, low, width, height].ticks[axis].append((along, value))


def compared(pairs: Sequence[tuple[float, float]]) -> float:
    """The largest difference of what was read from what is known, relative to the largest known."""
    miss = max(abs(a - b) for a, b in pairs) / max(abs(b) for _, b in pairs)
    assert miss < AGREES, miss
    return miss


def planned(runs: Sequence[Any]) -> list[ReadRun]:
    """The runs of an experiment by their fields."""
    return [ReadRun(run.name, RESULTS, run.fields(), summary={}, provenance={}) for run in runs]


def seq_len(run: StoredRun) -> int:
    return int(run.fields["task_settings"]["seq_len"])


Found = Iterator[tuple[str, Figure, float]]
Drawings = Callable[[str], list[list[Series]]]


def of_stability_margin(numbers: Numbers, drawn: Drawings, paths: dict[str, Any]) -> Found:
    settings = stability_margin.StabilityMarginSettings(task=numbers["task"], seeds=5, **paths)
    experiment = stability_margin.StabilityMargin()
    ends = {(row["seq_len"], row["abscissa"], row["seed"]): row for row in numbers["rows"]}
    for swept, runs in (
        ("length", experiment._by_length(settings)),
        ("abscissa", experiment._by_abscissa(settings)),
    ):
        name = f"stability-margin-{settings.label}-by-{swept}"
        losses, abscissas = drawn(name)
        left = iter(losses)
        known, read_runs = [], []
        for run, course in zip(planned(runs), abscissas, strict=True):
            start = run.fields["model"]["spectral_abscissa"]
            row = ends[seq_len(run), start, run.fields["seed"]]
            rows = [{"epoch": round(x), "s_A": y, "loss": None} for x, y in course]
            # The epoch in which a run overflowed has no loss.
            own = next(left) if row["epochs"] > row["diverged"] else []
            assert len(own) == row["epochs"] - row["diverged"]
            for x, y in own:
                rows[round(x)]["loss"] = y
            known.append((course[-1][1], row["s_A"]))
            assert round(course[-1][0]) == row["epochs"]
            if row["loss"] is not None:
                assert abs(math.log10(own[-1][1] / row["loss"])) < AGREES
            read_runs.append(replace(run, rows=tuple(rows)))
        assert next(left, None) is None
        yield name, stability_margin._figure(settings, swept, read_runs), compared(known)


def of_length_independence(numbers: Numbers, drawn: Drawings, paths: dict[str, Any]) -> Found:
    settings = length_independence.LengthIndependenceSettings(
        task=numbers["task"], norm_precision=numbers["norm_precision"], **paths
    )
    name = f"gap-{settings.label}"
    ((means, points),) = drawn(name)
    runs = [
        ReadRun("", RESULTS, {"task_settings": {"seq_len": round(x)}}, provenance={}, summary={
            "train_accuracy": y, "test_accuracy": 0.0, "diverged": False,
        })
        for x, y in points
    ]  # fmt: skip
    rows = numbers["rows"]
    known = [(y, row["gap"]) for (_, y), row in zip(means, rows, strict=True)]
    for row in rows:
        alike = [y for x, y in points if round(x) == row["seq_len"]]
        assert len(alike) == row["survived"]
        known.append((float(np.mean(alike)), row["gap"]))
    yield name, length_independence._gap_figure(settings, rows, runs), compared(known)


def of_stable_by_construction(numbers: Numbers, drawn: Drawings, paths: dict[str, Any]) -> Found:
    settings = stable.StableByConstructionSettings(task=numbers["task"], **paths)
    name = f"stable-by-construction-{settings.label}"
    means, ends = drawn(name)
    runs = planned(stable.StableByConstruction().runs(settings))
    rows = numbers["rows"]
    known: list[tuple[float, float]] = []
    sweeps: dict[Any, list[StoredRun]] = {}
    for kind, mean, points in zip(("free", "stable"), means, ends, strict=True):
        known += [(y, row[f"{kind}_test"]) for (_, y), row in zip(mean, rows, strict=True)]
        sweeps[kind] = []
        for row in rows:
            here = [
                run for run in runs if stable._kind(run) == kind and seq_len(run) == row["seq_len"]
            ]
            values = [y for x, y in points if round(x) == row["seq_len"]]
            assert len(values) == row[f"{kind}_survived"]
            known.append((max(values), row[f"{kind}_largest_s_A"]))
            sweeps[kind] += [
                replace(run, summary={"diverged": False, "s_A": value})
                for run, value in zip(here, values, strict=False)
            ]
    yield name, stable._figure(settings, rows, sweeps), compared(known)


def of_train_short_test_long(numbers: Numbers, drawn: Drawings, paths: dict[str, Any]) -> Found:
    settings = transfer.TrainShortTestLongSettings(task=numbers["task"], **paths)
    name = f"train-short-test-long-{settings.label}"
    means, ends = drawn(name)
    runs = planned(transfer.TrainShortTestLong().runs(settings))
    longest = f"test_accuracy_at_{settings.test_lengths[-1]}"
    known: list[tuple[float, float]] = []
    groups = {}
    for start, mean, points in zip(transfer.STARTS, means, ends, strict=True):
        own = [row for row in numbers["rows"] if row["start"] == start.label]
        known += [(y, row["test"]) for (_, y), row in zip(mean, own, strict=True)]
        known.append((float(np.mean([y for _, y in points])), own[-1]["test"]))
        known.append((max(x for x, _ in points), own[0]["largest_s_A"]))
        groups[start.label] = [
            replace(run, summary={"diverged": False, "s_A": x, longest: y})
            for run, (x, y) in zip(
                (run for run in runs if transfer._is(run, start)), points, strict=True
            )
        ]
    yield name, transfer._figure(settings, numbers["rows"], groups), compared(known)


def of_mamba_stack(numbers: Numbers, drawn: Drawings, _: dict[str, Any]) -> Found:
    settings = mamba_stack.MambaStackSettings(seeds=2, epochs=6)
    losses, accuracies = drawn("mamba-stack-listops")
    runs = planned(mamba_stack.MambaStack().runs(settings))
    kinds = [row["model"] for row in numbers["rows"]]
    groups: dict[str, list[StoredRun]] = {kind: [] for kind in kinds}
    in_order = [run for kind in kinds for run in runs if run.fields["model"]["kind"] == kind]
    for run, loss, accuracy in zip(in_order, losses, accuracies, strict=True):
        rows = tuple(
            {"epoch": round(x), "loss": y, "running_accuracy": share}
            for (x, y), (_, share) in zip(loss, accuracy, strict=True)
        )
        assert len(rows) == numbers["rows"][0]["epochs"]
        groups[run.fields["model"]["kind"]].append(replace(run, rows=rows))
    # Accuracies of the last epoch while training are in no table; those after it are near.
    for row in numbers["rows"]:
        ends = sorted(
            float(run.history()[-1]["running_accuracy"] or 0) for run in groups[row["model"]]
        )
        final = sorted(row["train_by_seed"].values())
        assert max(abs(a - b) for a, b in zip(ends, final, strict=True)) < 0.02
    yield "mamba-stack-listops", mamba_stack._figure(groups, {}), math.nan


def of_measures(numbers: Numbers, drawn: Drawings, _: dict[str, Any]) -> Found:
    panels = drawn("gap-against-measure")
    best = next(row for row in numbers["measures"] if row["key"] not in _LEFT_OUT)
    keys = list(dict.fromkeys((best["key"], "published", "sharpened")))
    columns: dict[str, Any] = {key: [] for key in (*keys, "gap")}
    points: list[Any] = []
    known = []
    for i, gaps in enumerate(numbers["gaps"]):
        tasks = [panel[i] for panel in panels]
        points += [{"task": gaps["task"]}] * len(tasks[0])
        columns["gap"] += [y for _, y in tasks[0]]
        for key, series in zip(keys, tasks, strict=True):
            assert [y for _, y in series] == [y for _, y in tasks[0]]
            columns[key] += [x for x, _ in series]
        values = [y for _, y in tasks[0]]
        assert len(values) == gaps["models"]
        known += [(float(np.mean(values)), gaps["mean"]), (max(values), gaps["largest"])]
    arrays = {key: np.array(column) for key, column in columns.items()}
    yield (
        "gap-against-measure",
        tables.scatter_figure(points, arrays, numbers["measures"]),
        compared(known),
    )


_LEFT_OUT = (TWIN.key, *KNOWN_BEFORE)

READ: dict[str, Callable[[Numbers, Drawings, dict[str, Any]], Found]] = {
    "stability-margin-imdb": of_stability_margin,
    "length-independence-imdb": of_length_independence,
    "length-independence-imdb-float64-norm": of_length_independence,
    "stable-by-construction-imdb": of_stable_by_construction,
    "train-short-test-long-imdb": of_train_short_test_long,
    "mamba-stack-listops": of_mamba_stack,
    "measures": of_measures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the film reviews")
    parser.add_argument("--tokenizer", type=Path, required=True, help="BERT's vocabulary")
    parser.add_argument("--allow-dirty", action="store_true", help="read with changed code")
    given = parser.parse_args()
    require_clean(RESULTS, allow_dirty=given.allow_dirty)
    record = provenance(command=shlex.join(["python", "tools/read_drawings.py", *sys.argv[1:]]))
    for name, reader in READ.items():
        folder = RESULTS / name
        result = json.loads((folder / "results.json").read_text())
        (numbers,) = result["outcomes"].values()
        precision = {"norm_precision": "float64" if "float64" in name else "float32"}
        on_imdb = numbers.get("task") == "imdb"
        paths = {"data": given.data, "tokenizer": given.tokenizer} if on_imdb else {}

        def drawn(stem: str, folder: Path = folder) -> list[list[Series]]:
            axes = read((folder / "figures" / f"{stem}.pdf").read_bytes())
            return [own.values() for own in axes]

        for stem, figure, miss in reader(numbers | precision, drawn, paths):
            save_figure_data(figure, folder / "figures", stem)
            pdf = (folder / "figures" / f"{stem}.pdf").relative_to(ROOT)
            log = ["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", str(pdf)]
            drawn_by = subprocess.run(
                log, capture_output=True, text=True, check=True
            ).stdout.strip()
            result.setdefault("read_back", {})[stem] = {
                "from": f"git show {drawn_by}:{pdf}",
                "largest_relative_difference": None if math.isnan(miss) else miss,
                **record,
            }
            print(f"read   {name}/{stem}: within {miss:.1e} of results.json")
        write_json(folder / "results.json", result)


if __name__ == "__main__":
    main()
