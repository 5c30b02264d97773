"""Put what `keelback certify --json` printed into one table, one row per file.

    python tools/tabulate_certificates.py

Reads `results/experiments/certificates/*.json` and writes `certificates.csv` beside them. Bounds
are rounded up, and are text, so that no table rounds them again.
"""

import csv
import json
from pathlib import Path

from upward import at_most

FOLDER = Path(__file__).resolve().parents[1] / "results/experiments/certificates"
HEADING = (
    "certificate",
    "examples behind it",
    "PAC-Bayes bound",
    "its classifier's error",
    "held-out bound",
    "checkpoint's error",
    "best constant's bound",
)


def row(path: Path) -> list[str]:
    found = json.loads(path.read_text())
    own_distribution = "fresh" if "fresh" in found["held_out"] else "test"
    pac_bayes, held_out = found["pac_bayes"], found["held_out"][own_distribution]
    constant = found["best_constant"][own_distribution] if "best_constant" in found else None
    return [
        path.stem,
        str(pac_bayes["examples"]),
        at_most(pac_bayes["error_bound"]),
        f"{pac_bayes['error'][own_distribution]:.3f}",
        at_most(held_out["bound"]),
        f"{held_out['error']:.3f}",
        "not made" if constant is None else at_most(constant["bound"]),
    ]


def main() -> None:
    with (FOLDER / "certificates.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADING)
        writer.writerows(row(path) for path in sorted(FOLDER.glob("*.json")))


if __name__ == "__main__":
    main()
