"""Verdicts on what gated SSMs learn, by the rules that `docs/studies/known.md` states."""

import pytest

from keelback.dynamics import Interval, PowerLaw
from keelback.experiments.second_paper.gated_experiment import order_claim
from keelback.experiments.second_paper.gated_reading import exponent_claim
from keelback.experiments.second_paper.locality import _series_claims
from keelback.experiments.second_paper.locality_gate import gate_claim


def law(value, low, high, points=4):
    return PowerLaw(Interval(value, low, high), 0.0, points, 0)


@pytest.mark.parametrize(
    ("fitted", "sufficient", "verdict", "holds"),
    [
        (law(-2.1, -2.2, -1.9), False, "holds", True),
        (law(-2.2, -2.3, -2.1), False, "holds within 10%", None),
        (law(-1.0, -1.2, -0.8), False, "does not hold", False),
        (law(-1.0, -1.2, -0.8), True, "consistent, not tight: less is enough", None),
        (law(-3.0, -3.2, -2.8), True, "does not hold", False),
        (law(-2.0, -2.1, -1.9, points=2), False, "not measured", None),
        (None, False, "not measured", None),
    ],
)
def test_verdicts_on_exponents(fitted, sufficient, verdict, holds):
    claim = exponent_claim("x", fitted, -2.0, sufficient=sufficient)
    assert claim.verdict == verdict
    assert claim.holds is holds


KEYS = ("epochs_low", "epochs", "epochs_high")
NEVER = (None, None, None)


@pytest.mark.parametrize(
    ("epochs", "verdict", "shown", "apart"),
    [
        ([(30, 40, 50), (100, 200, 300), NEVER], "holds", "40, 200, censored", 2),
        (
            [(30, 40, 50), (100, 200, 300), NEVER, NEVER],
            "not decided",
            "40, 200, censored, censored",
            2,
        ),
        ([(30, 40, 50), (100, 200, None), NEVER], "not decided", "40, 200, censored", 1),
        ([(30, 40, 50), (45, 60, 70), (80, 90, 99)], "not decided", "40, 60, 90", 1),
        ([(30, 40, 50), (20, 25, 29), (80, 90, 99)], "does not hold", "40, 25, 90", 1),
        ([NEVER, (80, 90, 99), NEVER], "does not hold", "censored, 90, censored", 1),
        ([(30, 40, 50), NEVER, NEVER], "not decided", "40, censored, censored", 1),
    ],
)
def test_an_order_is_claimed_of_medians_whose_intervals_lie_apart(epochs, verdict, shown, apart):
    """What was not reached is longer than what was; of two such medians nothing is known."""
    rows = [dict(zip(KEYS, values, strict=True)) for values in epochs]
    grows = order_claim("Epochs grow.", rows, "grows", "near = 1")
    assert grows.verdict == verdict
    assert grows.evidence.startswith(f"median epochs from near = 1 up: {shown}; ")
    assert grows.evidence.endswith(f" {apart} of {len(rows) - 1}")
    backwards = order_claim("Epochs fall.", rows[::-1], "falls", "near = 3")
    assert (backwards.verdict, backwards.holds) == (grows.verdict, grows.holds)


@pytest.mark.parametrize(("epochs", "points"), [(None, 3), (40, 1)])
def test_no_order_is_claimed_of_no_median_or_one_point(epochs, points):
    rows = [dict.fromkeys(("epochs_low", "epochs", "epochs_high"), epochs)] * points
    claim = order_claim("Epochs grow.", rows, "grows", "near = 1")
    assert (claim.verdict, claim.holds) == ("not measured", None)


@pytest.mark.parametrize(("reached", "verdict"), [(2, "holds"), (1, "does not hold")])
def test_half_of_the_trials_are_enough_to_have_learned(reached, verdict):
    row = {"series": "s", "near": 1, "trials": 4, **dict.fromkeys(KEYS)}
    learned, _ = _series_claims(
        [], [{**row, "reached": 4}, {**row, "reached": reached}], {"s": None}
    )
    assert "by half of the trials or more" in learned.statement
    assert learned.verdict == verdict


def gate_row(irrelevant, relevant=0.0):
    shares = dict.fromkeys(("projection_o_plus", "projection_o_minus"), relevant)
    return {"seed": 0, "epoch": 7, "projection_irrelevant_mean": irrelevant, **shares}


@pytest.mark.parametrize(
    ("near", "rows", "verdict"),
    [
        (3, [gate_row(-2.0, 0.4), gate_row(-1.0, -0.1)], "holds"),
        (3, [gate_row(-2.0, -0.6)], "does not hold"),
        (3, [gate_row(-2.0), gate_row(0.1)], "does not hold"),
        (1, [gate_row(0.2), gate_row(0.1)], "holds"),
        (1, [gate_row(0.2), gate_row(-0.1)], "does not hold"),
        (2, [], "not measured"),
    ],
)
def test_the_gate_is_judged_by_stage(near, rows, verdict):
    claim = gate_claim(near, rows, "at loss 0.5")
    assert claim.verdict == verdict
    assert claim.holds is {"holds": True, "does not hold": False, "not measured": None}[verdict]
    assert claim.statement.startswith(f"near = {near}, at loss 0.5: ")
