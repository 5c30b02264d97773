"""Which tokens open the gates."""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from keelback.audit._measures import LayerMeasures

_PUNCTUATION = set(string.punctuation) | set("“”‘’—–…«»")


@dataclass(frozen=True)
class TokenName:
    """How a token of the text is shown, and what type of token it is."""

    label: str
    type: str

    @classmethod
    def of(cls, token: int, label: Callable[[int], str] | None) -> "TokenName":
        """Named by `label`; by the bare id, of type "id", where there is none."""
        if label is None:
            return cls(str(token), "id")
        return cls(label(token), token_type(label(token)))


def gate_table(layers: Sequence[LayerMeasures], names: Sequence[TokenName]) -> list[dict[str, Any]]:
    """One row per token, the widest gate first.

    `opening` is how far the token's mean (over layers) binary logarithm of the step size lies
    above the layer's own mean, in standard deviations over tokens; 0 where step sizes are
    fixed.
    """
    layers = [own for own in layers if bool(own.statistics.gates.count.any())]
    if not layers:
        return []
    opening = torch.zeros(len(names), dtype=torch.float64)
    for measures in layers:
        gates = measures.statistics.gates
        if not gates.varies:
            continue
        mean, deviation = gates.overall
        opening += (gates.mean - mean) / max(deviation, 1e-30) / len(layers)
    count = layers[0].statistics.gates.count
    return [
        {
            "token": names[i].label,
            "type": names[i].type,
            "count": int(count[i]),
            "opening": float(opening[i]),
        }
        for i in opening.argsort(descending=True).tolist()
        if count[i] > 0
    ]


def gate_types(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean opening by type of token, weighted by how often each token comes."""
    by_type: dict[str, tuple[int, float]] = {}
    for row in table:
        count, total = by_type.get(row["type"], (0, 0.0))
        by_type[row["type"]] = (count + row["count"], total + row["count"] * row["opening"])
    rows = [
        {"type": name, "count": count, "opening": total / count}
        for name, (count, total) in by_type.items()
    ]
    return sorted(rows, key=lambda row: -row["opening"])


def token_type(label: str) -> str:
    """A rough type: line break, space, digits, punctuation, word start, letters, or other."""
    body = label.strip()
    if not body:
        return "line break" if "\n" in label or label == "0x0a" else "space"
    if body.startswith("0x") and len(body) == 4:
        return "line break" if body == "0x0a" else "other"
    if body.isdigit():
        return "digits"
    if set(body) <= _PUNCTUATION:
        return "punctuation"
    if body.isalpha():
        return "word start" if label[0].isspace() else "letters"
    return "other"
