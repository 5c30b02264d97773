"""The monitor with DeepSpeed itself, on two processes with gloo; skipped where it is not there."""

from typing import Any

import pytest

pytest.importorskip("deepspeed")

import deepspeed_training

KINDS = [
    *((stage, "float32", "clip") for stage in range(4)),
    (0, "float32", "stop"),
    (2, "float32", "lower-rate"),
    (2, "bfloat16", "clip"),
    (3, "bfloat16", "clip"),
]


@pytest.fixture(scope="module")
def processes() -> list[dict[Any, Any]]:
    return deepspeed_training.by_deepspeed(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_act_the_same_and_for_good(
    processes: list[dict[Any, Any]], kind: tuple[int, str, str]
) -> None:
    """DeepSpeed's optimizer has copies of the weights, from which it would write over an edit."""
    first, other = (own[kind] for own in processes)
    assert other == first
    assert first["failures"] == []
    assert first["readings"] == deepspeed_training.STEPS
    alarms = [row["alarms"] for row in first["rows"]]
    action = kind[2]
    assert alarms == ([1, 0, 0] if action == "clip" else [1, 1, 1])
    assert [row["stop"] for row in first["rows"]] == [action == "stop"] * 3
    assert [row["rate"] < 1e-6 for row in first["rows"]] == [action == "lower-rate"] * 3
    before_and_after = [max(map(max, row["A"])) for row in first["rows"]]
    if action == "clip":
        assert max(before_and_after) < 0.1
        assert before_and_after == pytest.approx([before_and_after[0]] * 3, rel=0.02)
