"""Put the tables of committed result files into the README and the docs.

    python tools/fill_tables.py           fills them
    python tools/fill_tables.py --check   changes nothing; fails where a table is stale

A table stands between `<!-- table: PATH -->` and `<!-- end -->`; PATH is a CSV file, or the JSON of
`keelback bench` or of a report, of which `PATH#NAME` shows the rows under NAME, and
`PATH#NAME/MEASURE,MEASURE` of a benchmark with several measures those that are named. A PATH that
is a list of claims, such as `tools/known_ours.toml`, shows them as tools/known_claims.py reads
them. A result that was made from code that differed from its commit is refused, as table and as
figure.

Columns are named as `table_heads.py` says. Numbers are shown with three digits, those of a column
that is called a bound, or certified, rounded up.
"""

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import known_claims
from results_index import ROOT, documents, read, refused, shown
from table_heads import head_of
from upward import significant_up

ALL_CENSORED = "censored (censored to censored)"
"""How results wrote, before they wrote "censored", that neither a median nor its ends were seen."""
BOUND = re.compile(r"\b(bound|certified)\b")
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def as_markdown(source: str) -> str:
    name, _, part = source.partition("#")
    path = ROOT / name
    heading, *rows = _READERS[path.suffix](path, part)
    bounds = [BOUND.search(title) is not None for title in heading]
    cells = [[_cell(*cell) for cell in zip(row, bounds, strict=True)] for row in rows]
    heads = [head_of(source, title) for title in heading]
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(path: Path, _: str) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


def _claims(reports: dict[str, list[dict[str, str]]]) -> list[list[str]]:
    shown = ["statement", "verdict", "evidence"]
    claims = [claim for claims in reports.values() for claim in claims]
    return [shown, *([_escaped(claim[name]) for name in shown] for claim in claims)]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {found}" for name, found in value.items())
    return str(value)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")


def _benchmark(path: Path, part: str) -> list[list[str]]:
    part, _, chosen = (part or "rows").partition("/")
    rows = read(path)[part]
    if part == "claims":
        return _claims(rows)
    if "call_ms" in rows[0]:
        return _by_measure(rows, chosen.split(",") if chosen else list(MEASURES))
    if "peers" not in rows[0]:
        return [list(rows[0]), *([_text(cell) for cell in row.values()] for row in rows)]
    peers = list(dict.fromkeys(peer for row in rows for peer in row["peers"]))
    ours = next(name for name in ("ours_ms", "ours_us") if name in rows[0])
    unit = {"ours_ms": "ms", "ours_us": "µs"}[ours]
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        **({"operator": lambda row: row["operator"]} if "operator" in rows[0] else {}),
        **_shape(rows[0]),
        "pass": lambda row: row["pass"],
        f"{unit}, keelback": lambda row: row[ours],
        **{f"{unit}, {peer}": partial(_of_peer, peer) for peer in peers},
        "fastest peer / keelback": lambda row: row.get("ratio", ""),
    }
    if "floor_ms" in rows[0]:
        columns["keelback / floor"] = lambda row: row["ours_ms"] / row["floor_ms"]
    for name in rows[0].get("peak_bytes", {}):
        title = f"MB, {'keelback' if name == 'ours' else name}"
        columns[title] = partial(_megabytes, name)
    return [list(columns), *([str(of(row)) for of in columns.values()] for row in rows)]


SIZES = (
    *("batch", "length", "channels", "heads", "head_dim", "state", "key", "value", "groups"),
    "decay",
)
#: What a benchmark measures of each way, by the name of the numbers: with its unit, without, and
#: what the unit is made of.
MEASURES = {
    "gpu_ms": ("GPU ms", "GPU time", 1.0),
    "call_ms": ("call ms", "call time", 1.0),
    "peak_bytes": ("MB", "memory", 1e6),
}


def _shape(row: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], Any]]:
    names = [name for name in SIZES if name in row]
    return {", ".join(names): lambda row: ", ".join(str(row[name]) for name in names)}


def _by_measure(rows: list[dict[str, Any]], measures: list[str]) -> list[list[str]]:
    """Each of the measures of all ways, and the ratio of the best peer to ours."""
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        **_shape(rows[0]),
        "pass": lambda row: row["pass"],
    }
    for measure in measures:
        title, quantity, unit = MEASURES[measure]
        for way in dict.fromkeys(way for row in rows for way in row.get(measure, ())):
            name = "keelback" if way == "ours" else way
            columns[f"{title}, {name}"] = partial(_measured, measure, way, unit)
        if any(measure in row["ratios"] for row in rows):
            columns[f"{quantity}, best peer / keelback"] = partial(_ratio, measure)
    return [list(columns), *([str(of(row)) for of in columns.values()] for row in rows)]


def _measured(measure: str, way: str, unit: float, row: dict[str, Any]) -> float | str:
    found = row.get(measure, {})
    return float(found[way]) / unit if way in found else ""


def _ratio(measure: str, row: dict[str, Any]) -> Any:
    return row["ratios"].get(measure, "")


def _of_peer(peer: str, row: dict[str, Any]) -> Any:
    return row["peers"].get(peer, "")


def _megabytes(name: str, row: dict[str, Any]) -> float:
    return float(row["peak_bytes"][name]) / 1e6


def _cell(text: str, of_bound: bool) -> str:
    try:
        number = float(text)
    except ValueError:
        return "censored" if text == ALL_CENSORED else text
    if number.is_integer() and "." not in text:
        return text
    if of_bound and math.isfinite(number):
        return significant_up(text)
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


_READERS: dict[str, Callable[[Path, str], list[list[str]]]] = {
    ".csv": _csv,
    ".json": _benchmark,
    ".toml": known_claims.table,
}


def filled(text: str) -> str:
    return BLOCK.sub(lambda m: m[1] + as_markdown(m[2]) + m[3], text)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="fail where a table is stale")
    return options


def main() -> None:
    check = parser().parse_args().check
    if dirty := sorted(refused() & set(shown())):
        sys.exit(
            f"made from code that differed from its commit: {', '.join(dirty)}; commit the code, "
            "then run the command again that results/index.json names"
        )
    stale = [path for path in documents() if filled(path.read_text()) != path.read_text()]
    if check and stale:
        sys.exit("stale tables: " + ", ".join(str(path.relative_to(ROOT)) for path in stale))
    for path in stale:
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
