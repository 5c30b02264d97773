"""Write results/versions/versions.csv, the table of the docs, from the records beside it: `make
versions`.

A record is made by `make test RECORD=1`, `make test-newest RECORD=1` or `make test-oldest
RECORD=1`.
"""

import csv
import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "results" / "versions"
SHOWN = (
    "torch",
    "numba",
    "numpy",
    "scipy",
    "polars",
    "pydantic",
    "transformers",
    "accelerate",
    "datasets",
    "matplotlib",
    "plotly",
    "ray",
)


def main() -> None:
    records = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    columns = [f"{record['label']}, Python {record['provenance']['python']}" for record in records]
    rows: list[list[str]] = [["package", *columns]]
    for name in SHOWN:
        rows.append([name, *(record["versions"].get(name, "-") for record in records)])
    for name in ("passed", "failed", "error", "skipped"):
        rows.append([f"tests {name}", *(str(record["tests"][name]) for record in records)])
    rows.append(["commit", *(record["provenance"]["commit"] for record in records)])
    rows.append(["date", *(record["provenance"]["date"][:10] for record in records)])
    with (FOLDER / "versions.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
