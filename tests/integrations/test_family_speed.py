"""The table of families: what is measured, and what is named where it is not."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from keelback.benchmarks import family_speed
from keelback.benchmarks.family_sizes import realistic
from keelback.benchmarks.family_speed import Trial, _row, benchmark
from keelback.benchmarks.worker import Worker
from keelback.errors import InputError

TRIAL = Trial(lengths=(4, 8))


def measure(name: str, settings: float) -> Iterator[tuple[str, Any]]:
    yield "first", {"value": 1}
    if name == "slow":
        time.sleep(settings)
    if name == "unknown":
        raise InputError("there is no unknown")
    if name == "ends":
        raise SystemExit(3)
    yield "second", {"value": 2}


def test_what_takes_too_long_is_ended_and_the_rest_is_measured() -> None:
    both = [("first", {"value": 1}), ("second", {"value": 2})]
    with Worker(measure, 600.0) as worker:
        assert worker.results_of("quick", 60.0) == (both, None)
        assert worker.results_of("slow", 0.5) == (both[:1], "not done in 0.5 s")
        assert worker.results_of("unknown", 60.0) == (both[:1], "there is no unknown")
        assert worker.results_of("ends", 60.0) == (both[:1], "the process ended with 3")
        assert worker.results_of("quick", 60.0) == (both, None)


def test_a_row_names_what_was_left_out() -> None:
    times = {"ours_ms": 2.0, "theirs_ms": 6.0}
    found = {"layers": {"layers": "2"}, "forward of 4": times, "decoding": times}
    row = _row("mamba", TRIAL, found, "not done in 5 s")
    assert row["speed-up, 4 tokens, forward"] == 3.0
    assert row["tokens/s, keelback"] == 1e3 * TRIAL.new_tokens / 2.0
    assert row["error of logits"] is None
    assert row["left out"] == (
        "forward+backward of 4, errors, float64, forward of 8, forward+backward of 8: "
        "not done in 5 s"
    )
    failed = {"errors": {"failed": "no memory"}, "float64": {"failed": "no memory"}}
    all_else = {name: times for name in TRIAL.planned if name not in failed}
    row = _row("mamba", TRIAL, {**all_else, **failed}, None)
    assert row["left out"] == "errors, float64: no memory"
    assert row["error of logits"] is None
    assert _row("mamba", TRIAL, {}, "nothing replaced")["left out"] == "all: nothing replaced"
    assert _row("mamba", TRIAL, dict.fromkeys(TRIAL.planned, times), None)["left out"] is None


def test_what_transformers_cannot_do_with_a_model_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def part(name: str, *_: Any) -> dict[str, Any]:
        if name == "decoding":
            raise ValueError("no attention layer\nand more")
        return {"ours_ms": 1.0, "theirs_ms": 2.0}

    monkeypatch.setattr(family_speed, "_part", part)
    found = dict(family_speed.measured("mamba", Trial(d_model=256, lengths=(4,))))
    assert found.pop("decoding") == {"failed": "no attention layer"}
    assert list(found) == ["layers", "forward of 4", "forward+backward of 4", "errors", "float64"]


def test_families_that_were_measured_before_are_not_measured_again() -> None:
    told: list[str] = []
    planned = benchmark(["mamba", "mamba2"], TRIAL, 60.0, told.append)
    assert planned.names == ["mamba", "mamba2"]
    assert planned.about["trial"] == {**asdict(TRIAL), "lengths": [4, 8]}
    assert planned.about["size"] == asdict(realistic(TRIAL.d_model))
    earlier = {
        "mamba": {"row": {"family": "mamba"}, "times": [{"ours_ms": 1}, {"ours_ms": 2}]},
        "mamba2": {"row": {"family": "mamba2"}, "times": [{"ours_ms": 3}]},
    }
    assert list(planned.measured(earlier)) == []
    assert told == []
    result = planned.result(earlier)
    assert result["rows"] == [{"family": "mamba"}, {"family": "mamba2"}]
    assert [times["ours_ms"] for times in result["times"]] == [1, 2, 3]


def test_a_width_that_makes_no_whole_heads_is_refused() -> None:
    assert realistic(512).heads == 8
    with pytest.raises(InputError, match="d_model is 300; it should be a multiple of 256"):
        realistic(300)
