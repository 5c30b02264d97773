"""What an audit says: a sentence, the numbers behind it, and what to try."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["problem", "warning", "good", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found: a sentence, the numbers behind it, and what to try.

    Attributes:
        measure: what was measured, in words; empty where there was nothing to measure.
        value: of the measure; NaN where it cannot be told.
        threshold: the value at which the severity changes; `None` where none does.

    Examples:
        >>> finding = Finding("warning", "The state grows.", "1.2 per token", value=1.2)
        >>> finding.to_json()["severity"]
        'warning'
    """

    severity: Severity
    statement: str
    evidence: str
    advice: str = ""
    measure: str = ""
    value: float = float("nan")
    threshold: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
