"""Put the certificates of language models into one table: files, and what they speak about.

    python tools/tabulate_language.py --out results/experiments/language-certificates/table.csv

Reads the certificates beside the table, `*.certificate.json`, which `keelback-check` accepts.
Bounds are rounded up, and are text, so that no table rounds them again. Beside a certificate for
new documents stand those of the n-gram models (add one, counted on the training text; with n = 1
the prediction is always the same); beside one along the text the losses of n-gram models counted
on the training text or, where the code is paid for, on the very text.
"""

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

from upward import at_most, rounded_up

HEADING = (
    "certificate",
    "speaks about",
    "documents",
    "bytes",
    "own bits per byte",
    "certified",
    "of it the code",
    "of it the rest",
    "own error",
    "certified error",
    "1-gram",
    "2-gram",
    "3-gram",
)
KINDS = {
    "these bytes": ("bits along the text", "errors along the text"),
    "a new document": ("bits of a new document", "errors in a new document"),
}
UNITS = 2**20


def rows(path: Path) -> list[list[str]]:
    certificate = json.loads(path.read_text())
    measured = certificate["data"]["measured"]
    by_kind: dict[str, dict[str, Any]] = {}
    grams: dict[int, float] = {}
    for statement in certificate["statements"]:
        by_kind[statement["kind"]] = statement
        if statement["kind"] == "n-gram":
            grams[statement["evidence"]["order"]] = statement["bound"]
    found = []
    for about, (bits, errors) in KINDS.items():
        if bits not in by_kind:
            continue
        own = by_kind[bits]
        of_documents = about == "a new document"
        beside = [
            f"{rounded_up(grams[n])} certified"
            if of_documents and n in grams
            else f"{measured['ngrams'][str(n)]:.3f} lost"
            for n in (1, 2, 3)
        ]
        error = by_kind.get(errors)
        loss, code = own_loss(own, measured, of_documents), code_term(own["evidence"])
        found.append(
            [
                path.name.removesuffix(".certificate.json"),
                about,
                str(measured["documents"]),
                str(measured["bytes"]),
                f"{loss:.3f}",
                at_most(own["bound"]),
                f"{code:.3f}",
                f"{own['bound'] - loss - code:.3f}",
                f"{measured['error']:.3f}",
                "" if error is None else at_most(error["bound"]),
                *beside,
            ]
        )
    return found


def own_loss(statement: dict[str, Any], measured: dict[str, Any], of_documents: bool) -> float:
    """Per byte of the text, or the mean over documents of their means."""
    if not of_documents:
        return float(measured["bits_per_byte"])
    evidence = statement["evidence"]
    return float(evidence["sum"] / UNITS / evidence["examples"])


def code_term(evidence: dict[str, Any]) -> float:
    """Bits per byte that the length of the code adds to a bound along the text."""
    if not evidence["code_bits"]:
        return 0.0
    nats = evidence["code_bits"] * math.log(2)
    return float(evidence["width"] * nats / (evidence["rate"] * evidence["bytes"]))


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="table; certificates lie beside")
    return options


def main() -> None:
    out = parser().parse_args().out
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADING)
        for path in sorted(out.parent.glob("*.certificate.json")):
            writer.writerows(rows(path))


if __name__ == "__main__":
    main()
