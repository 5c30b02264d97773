"""Put class bounds that `keelback certify --json` printed into one table, one row per checkpoint.

    python tools/tabulate_classes.py --out results/experiments/class-certificates/table.csv

Reads the JSON files beside the table. Bounds are rounded up, and are text, so that no table rounds
them again.
"""

import argparse
import csv
import json
from pathlib import Path

from upward import at_most

HEADING = (
    "checkpoint",
    "layers",
    "training examples",
    "covering bound",
    "held-out bound",
    "checkpoint's error",
    "best constant's bound",
)


def row(path: Path) -> list[str]:
    found = json.loads(path.read_text())
    own = "fresh" if "fresh" in found["held_out"] else "test"
    covering = found["a_posteriori"]["risk"]["covering"]
    constants = found["constants"]
    layers = {name.split(".")[0] for name in constants if "." in name}
    return [
        path.stem,
        str(len(layers) or 1),
        str(int(next(value for name, value in constants.items() if name.split(".")[-1] == "m"))),
        "vacuous" if covering["vacuous"] else at_most(10 ** covering["log10"]),
        at_most(found["held_out"][own]["bound"]),
        f"{found['held_out'][own]['error']:.4f}",
        at_most(found["best_constant"][own]["bound"]),
    ]


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="table; the files lie beside")
    return options


def main() -> None:
    out = parser().parse_args().out
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADING)
        names = sorted(out.parent.glob("*.json"))
        writer.writerows(row(path) for path in names if not path.stem.endswith(".certificate"))


if __name__ == "__main__":
    main()
