"""Put the tables of committed result files into the README and the docs.

A table stands between `<!-- table: PATH -->` and `<!-- end -->`; PATH is a CSV file, or the JSON of
`keelback bench`. `--check` changes nothing and fails where a document does not show what its
result file holds.
"""

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def as_markdown(path: Path) -> str:
    heading, *rows = _benchmark(path) if path.suffix == ".json" else _csv(path)
    lines = [heading, ["---"] * len(heading), *([_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


def _benchmark(path: Path) -> list[list[str]]:
    rows = json.loads(path.read_text())["rows"]
    if "peers" not in rows[0]:
        return [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    shape = ("batch", "length", "channels", "state")
    peers = list(rows[0]["peers"])
    table = [[", ".join(shape), "pass", "keelback", *peers, "fastest peer / keelback"]]
    for row in rows:
        times = [row["ours_ms"], *(row["peers"].get(peer, "") for peer in peers), row["ratio"]]
        sizes = ", ".join(str(row[name]) for name in shape)
        table.append([sizes, row["pass"], *(str(time) for time in times)])
    return table


def _cell(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    if number.is_integer() and "." not in text:
        return text
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def filled(text: str) -> str:
    return BLOCK.sub(lambda m: m[1] + as_markdown(ROOT / m[2]) + m[3], text)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    stale = [path for path in documents() if filled(path.read_text()) != path.read_text()]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit("stale tables: " + ", ".join(str(path.relative_to(ROOT)) for path in stale))
        return
    for path in stale:
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
