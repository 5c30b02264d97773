"""The benchmarks of audit and monitor measure what they say, on sizes that take seconds."""

import csv
import io

import pytest

from keelback.benchmarks import monitor_foresight
from keelback.benchmarks.audit_speed import audit_speed
from keelback.benchmarks.monitor_foresight import foresight, overhead, summary_csv
from keelback.errors import InputError


@pytest.mark.slow
def test_an_audit_beside_the_forward_pass() -> None:
    found = audit_speed(1, 16, 64, "cpu", 2, with_transformers=False)
    audit, forward = found["rows"]
    assert forward["run"] == "forward pass, keelback's scan"
    assert audit["seconds"] > forward["seconds"] > 0
    assert all(row["first_seconds"] >= row["seconds"] for row in found["rows"])
    assert all(row["peak_gib"] > 0.1 for row in found["rows"])
    assert found["audit_over_forward"]["seconds"] == audit["seconds"] / forward["seconds"]
    with pytest.raises(InputError, match="layers is 0"):
        audit_speed(0, 16, 64, "cpu", 1, with_transformers=False)


def test_foresight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """From abscissa 3 a state grows e^90-fold in 50 tokens; from -5 it never grows."""
    monkeypatch.setattr(monitor_foresight, "LENGTHS", (50,))
    monkeypatch.setattr(monitor_foresight, "ABSCISSAE", (-5.0, 3.0))
    monkeypatch.setattr(monitor_foresight, "EPOCHS", 1)
    found = foresight([0, 1], every=1)
    assert (found["died"], found["foreseen"]) == (2, 2)
    assert (found["healthy"], found["false_alarms"]) == (2, 0)
    (row,) = csv.DictReader(io.StringIO(summary_csv(found)))
    assert row["died"] == "2"
    assert row["survive with clipping"] == str(found["survived_with_clipping"])


def test_a_reading_costs_little() -> None:
    found = overhead(every=50, repeats=1)
    assert found["overhead"] == pytest.approx(found["reading_ms"] / (50 * found["step_ms"]))
