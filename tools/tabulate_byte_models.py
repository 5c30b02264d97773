"""Put certificates of models over bytes and tokens, of several sizes, into a table and a figure.

    python tools/tabulate_byte_models.py --out results/experiments/byte-certificates

Reads the folders that tools/certify_byte_model.py wrote below `--out`, and the tiny model's
certificates in `results/experiments/language-certificates`; writes `table.csv` and
`figures/certified-bits.png` (and .pdf). Bounds are rounded up, and are text, so that no table
rounds them again.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelback.outcome import Figure, Line, Mark, Panel
from keelback.report import save_figure
from tabulate_language import code_term
from upward import at_most

TINY = Path(__file__).resolve().parents[1] / "results/experiments/language-certificates"
HEADING = (
    "model",
    "reads",
    "weights",
    "coded numbers",
    "bytes of the file",
    "bits per weight",
    "own bits on the training text",
    "certified there",
    "of it the code",
    "certified error there",
    "certified on a new document",
    "certified error on a new document",
    "training steps",
)

OF_TOKENS = "token "
"""What the kinds of statements about a model over tokens begin with."""

KINDS = {"code paid": "bits along the text", "new document": "bits of a new document"}


@dataclass(frozen=True)
class Certified:
    """A model and what is certified about it: bits per byte, and errors."""

    name: str
    reads: str
    weights: int
    size: int
    coded: int | None
    steps: int | None
    trained: dict[str, Any]
    drawn: dict[str, Any] | None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.size / self.weights

    def bound(self, kind: str) -> float | None:
        certificates = [self.trained, *([] if self.drawn is None else [self.drawn])]
        for certificate in certificates:
            for statement in certificate["statements"]:
                if statement["kind"].removeprefix(OF_TOKENS) == kind:
                    return float(statement["bound"])
        return None

    def row(self) -> list[str]:
        kind = "bits along the text"
        along = next(
            own for own in self.trained["statements"] if own["kind"].removeprefix(OF_TOKENS) == kind
        )
        return [
            self.name,
            self.reads,
            str(self.weights),
            "" if self.coded is None else str(self.coded),
            str(self.size),
            f"{self.bits_per_weight:.3f}",
            f"{self.trained['data']['measured']['bits_per_byte']:.3f}",
            shown(self.bound("bits along the text")),
            f"{code_term(along['evidence']):.3f}",
            shown(self.bound("errors along the text")),
            shown(self.bound("bits of a new document")),
            shown(self.bound("errors in a new document")),
            "" if self.steps is None else str(self.steps),
        ]


def ngram_rows(found: Sequence[Certified]) -> list[list[str]]:
    """What n-gram models lose on the training text, and are certified for on a new document."""
    one = next(one for one in reversed(found) if one.drawn is not None and one.steps is not None)
    assert one.drawn is not None
    lost = one.trained["data"]["measured"]["ngrams"]
    bounds = {
        str(statement["evidence"]["order"]): float(statement["bound"])
        for statement in one.drawn["statements"]
        if statement["kind"] == "n-gram"
    }
    return [
        [
            f"{n}-gram",
            "bytes",
            *[""] * 4,
            f"{bits:.3f}",
            "not made",
            "",
            "",
            at_most(bounds[n]),
            "",
            "",
        ]
        for n, bits in lost.items()
    ]


def shown(bound: float | None) -> str:
    return "not made" if bound is None else at_most(bound)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def models(folder: Path) -> list[Certified]:
    """The tiny model and those below the folder, the smallest first."""
    compressed = read(TINY / "compress.json")
    tiny = Certified(
        "tiny (Mamba-2, all weights coded)",
        "bytes",
        compressed["coded_weights"],
        compressed["bytes"],
        compressed["coded_weights"],
        None,
        read(TINY / "trained.certificate.json"),
        read(TINY / "drawn.certificate.json"),
    )
    found = [tiny]
    for path in folder.glob("*/results.json"):
        written, drawn = read(path), path.with_name("drawn.certificate.json")
        found.append(
            Certified(
                path.parent.name,
                f"{written['tokenizer']['vocab_size']} tokens"
                if "tokenizer" in written
                else "bytes",
                written["weights"],
                written["bytes"],
                written["coded_weights"],
                written["steps"],
                read(path.with_name("trained.certificate.json")),
                read(drawn) if drawn.exists() else None,
            )
        )
    return sorted(found, key=lambda one: (one.weights, one.size))


def figure(found: Sequence[Certified]) -> Figure:
    """Certified bits per byte of models over bytes against the size and the bits per weight."""
    lost = found[-1].trained["data"]["measured"]["ngrams"]
    marks = [Mark(lost[order], f"{order}-gram", "y") for order in ("2", "3")]
    families = {
        "Mamba": [one for one in found if one.name == "mamba"],
        "Mamba-2": [one for one in found if one.name.startswith(("mamba2", "tiny"))],
        "transformer": [one for one in found if one.name == "transformer"],
    }

    def panel(label: str, values: Callable[[Certified], float]) -> Panel:
        lines = []
        for family, members in families.items():
            for about, kind in KINDS.items():
                bounds = [(values(one), one.bound(kind)) for one in members]
                known = [(x, y) for x, y in bounds if y is not None]
                name = f"{family}, {about}"
                x, y = [x for x, _ in known], [y for _, y in known]
                lines.append(Line(x, y, name, style="points", family=name))
        return Panel(label, "certified bits per byte", lines=lines, log_x=True, marks=marks)

    return Figure(
        "certified-bits",
        "Certified bits per byte of reviews",
        [
            panel("weights", lambda one: one.weights),
            panel("bits of the file per weight", lambda one: one.bits_per_weight),
        ],
        "At confidence 0.95 each. n-gram models: their loss on the training text they were "
        "counted on.",
    )


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="folder of the models' folders")
    return options


def main() -> None:
    out = parser().parse_args().out
    found = models(out)
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADING)
        writer.writerows([*(one.row() for one in found), *ngram_rows(found)])
    save_figure(figure(found), out / "figures")


if __name__ == "__main__":
    main()
