"""The benchmarks of audit and monitor measure what they say, on sizes that take seconds."""

import csv
import io
import statistics
from dataclasses import asdict
from typing import Any

import pytest

from keelback.benchmarks.audit_speed import benchmark as audit_benchmark
from keelback.benchmarks.monitor_foresight import (
    Training,
    benchmark,
    overhead,
    summary_csv,
)
from keelback.benchmarks.monitor_trainings import (
    FromUnstableStarts,
    LengtheningSequences,
    UnclippedLanguageModels,
)
from keelback.errors import InputError, JobError


@pytest.mark.slow
def test_an_audit_beside_the_forward_pass() -> None:
    found = audit_benchmark(1, 16, 64, "cpu", 2, with_transformers=False).run()
    audit, forward = found["rows"]
    assert forward["run"] == "forward pass, keelback's scan"
    assert audit["seconds"] > forward["seconds"] > 0
    assert all(row["first_seconds"] >= row["seconds"] for row in found["rows"])
    assert all(row["peak_gib"] > 0.1 for row in found["rows"])
    assert found["audit_over_forward"]["seconds"] == audit["seconds"] / forward["seconds"]
    with pytest.raises(InputError, match="layers is 0"):
        audit_benchmark(0, 16, 64, "cpu", 1, with_transformers=False)


def test_ratios_are_of_the_runs_that_there_are() -> None:
    planned = audit_benchmark(1, 16, 64, "cpu", 2, with_transformers=True)
    audit, forward, transformers = planned.names
    row = {"seconds": 6.0, "peak_gib": 3.0}
    assert planned.result({forward: row}) == {"rows": [row]}
    result = planned.result({audit: row, transformers: {"seconds": 3.0, "peak_gib": 1.0}})
    assert result["audit_over_transformers"] == {"seconds": 2.0, "peak_gib": 3.0}
    assert "audit_over_forward" not in result


def test_trainings_are_counted_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FromUnstableStarts, "lengths", (50,))
    monkeypatch.setattr(FromUnstableStarts, "abscissae", (3.0,))
    planned = benchmark([0, 1], families=[FromUnstableStarts()])
    name = "unstable start, seq_len 50, spectral_abscissa 3.0, seed {}"
    assert planned.names == [name.format(0), name.format(1)]
    died = Training("unstable start", {"seq_len": 50}, 0, 5, 2, 3.0, saved=True, saved_loss=0.1)
    part = planned.result({name.format(0): asdict(died)})
    assert part["trainings"] == [asdict(died)]
    [counts] = part["families"]
    assert (counts["died"], counts["saved"], counts["updates_before"]) == (1, 1, [3])


def test_foresight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """From abscissa 3 a state grows e^90-fold in 50 tokens; from -5 it never grows."""
    monkeypatch.setattr(FromUnstableStarts, "lengths", (50,))
    monkeypatch.setattr(FromUnstableStarts, "abscissae", (-5.0, 3.0))
    monkeypatch.setattr(FromUnstableStarts, "epochs", 1)
    found = benchmark([0, 1], families=[FromUnstableStarts()]).run()
    (counts,) = found["families"]
    assert (counts["died"], counts["foreseen"], counts["updates_before"]) == (2, 2, [0, 0])
    assert (counts["healthy"], counts["false_alarms"]) == (2, 0)
    assert [one["setting"]["spectral_abscissa"] for one in found["trainings"]] == [-5, -5, 3, 3]
    (row,) = csv.DictReader(io.StringIO(summary_csv(found)))
    assert row["died"] == "2"
    assert row["live with the action"] == str(counts["saved"])


def test_a_warning_comes_long_before_sequences_are_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LengtheningSequences, "learning_rates", (1e-4,))
    monkeypatch.setattr(LengtheningSequences, "abscissae", (-0.05, 0.05))
    found = benchmark([0], families=[LengtheningSequences()]).run()
    (counts,) = found["families"]
    assert (counts["died"], counts["foreseen"], counts["saved"]) == (1, 1, 1)
    assert (counts["healthy"], counts["false_alarms"]) == (1, 0)
    assert counts["updates_before"][0] >= 10


def test_a_rate_that_is_too_high_is_noticed_before_the_loss_is_nan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = [UnclippedLanguageModels.rates[i] for i in (0, 2)]
    monkeypatch.setattr(UnclippedLanguageModels, "rates", rates)
    monkeypatch.setattr(UnclippedLanguageModels, "steps", 60)
    seeds = [1, 2, 3]  # A diverging training is chaotic: the last bit decides on the step.
    (counts,) = benchmark(seeds, families=[UnclippedLanguageModels()]).run()["families"]
    assert (counts["died"], counts["foreseen"]) == (len(seeds), len(seeds))
    assert (counts["healthy"], counts["false_alarms"]) == (len(seeds), 0)
    assert min(counts["updates_before"]) >= 1
    assert statistics.median(counts["updates_before"]) >= 2


def test_a_reading_costs_little() -> None:
    found = overhead(every=50, repeats=1)
    assert found["overhead"] == pytest.approx(found["reading_ms"] / (50 * found["step_ms"]))


def test_calls_that_read_nothing_are_no_cost_of_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr("keelback.audit.TrainingMonitor._looks_of_all", nothing)
    with pytest.raises(JobError, match="did not read at every step"):
        overhead(every=50, repeats=1)
