"""The onset of degradation: found where it was put, and not found where there is none."""

import numpy as np
import pytest

from keelback.audit._degradation import degradation
from keelback.audit._spans import Span

SPAN = Span(8192, 512)
POSITIONS = np.arange(512, 8192)


def losses(rise: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hard and easy tokens alike in both contexts, and noise in their difference."""
    rng = np.random.default_rng(seed)
    tokens = rng.gamma(2.0, 1.0, (2, len(POSITIONS)))
    return tokens + rise + rng.normal(0.0, 0.3, tokens.shape), tokens


@pytest.mark.parametrize("onset", [512, 1024, 3000])
def test_a_rise_is_dated(onset: int) -> None:
    rise = 0.6 * np.maximum(0.0, np.log(POSITIONS / onset))
    found = degradation(*losses(rise, seed=onset), SPAN)
    assert found.degrades
    assert found.onset is not None
    assert found.onset_interval is not None
    assert found.onset == pytest.approx(onset, rel=0.25)
    assert found.onset_interval[0] * 0.95 <= max(onset, 544) <= found.onset_interval[1] * 1.05
    late = rise[POSITIONS >= 4096].mean()
    assert found.excess == pytest.approx(late, abs=0.03)
    assert found.excess_interval[0] < late < found.excess_interval[1]
    assert found.reference_loss == pytest.approx(2.0, abs=0.05)
    assert found.relative_excess == pytest.approx(found.excess / found.reference_loss)


@pytest.mark.parametrize("shift", [0.0, -0.2, 0.01])
def test_no_rise_is_no_degradation(shift: float) -> None:
    found = [degradation(*losses(np.full(7680, shift), seed), SPAN) for seed in range(10)]
    assert not any(f.degrades for f in found)
    assert all(f.onset is None for f in found)
    covered = sum(f.excess_interval[0] <= shift <= f.excess_interval[1] for f in found)
    assert covered >= 7


def test_an_overflow_is_dated_to_the_token() -> None:
    full, restarted = losses(np.zeros(7680), seed=0)
    full[1, 4000:] = np.nan
    found = degradation(full, restarted, SPAN)
    assert found.degrades
    assert found.onset == 4512
    assert found.excess == np.inf


def test_a_single_token_beyond_training() -> None:
    found = degradation(np.array([[3.0]]), np.array([[1.0]]), Span(513, 512))
    assert found.degrades
    assert found.onset == 512
