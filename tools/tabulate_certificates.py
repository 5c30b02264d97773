"""Put what `keelback certify --json` printed into one table, one row per file.

    python tools/tabulate_certificates.py

Reads `results/experiments/certificates/*.json` and writes `certificates.csv` beside them.
"""

import csv
import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "results/experiments/certificates"
HEADING = (
    "certificate",
    "examples behind it",
    "PAC-Bayes bound",
    "its classifier's error",
    "held-out bound",
    "checkpoint's error",
)


def row(path: Path) -> list[str]:
    found = json.loads(path.read_text())
    own_distribution = "fresh" if "fresh" in found["held_out"] else "test"
    pac_bayes, held_out = found["pac_bayes"], found["held_out"][own_distribution]
    numbers = (
        pac_bayes["error_bound"],
        pac_bayes["error"][own_distribution],
        held_out["bound"],
        held_out["error"],
    )
    return [path.stem, str(pac_bayes["examples"]), *(f"{number:.3f}" for number in numbers)]


def main() -> None:
    with (FOLDER / "certificates.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADING)
        writer.writerows(row(path) for path in sorted(FOLDER.glob("*.json")))


if __name__ == "__main__":
    main()
