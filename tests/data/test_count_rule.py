"""The best count rule against enumeration of every string, and in its limits."""

import itertools

import pytest

from keelback.data.count_rule import best_count_rule


def accuracy_of_the_best_rule_by_enumeration(seq_len: int, flip: float) -> float:
    """Weigh every (clean string, surviving ones) pair; choose the best label for each count."""
    weight = [[0.0, 0.0] for _ in range(seq_len + 1)]
    strings = list(itertools.product((0, 1), repeat=seq_len))
    of_count = [sum(sum(s) == k for s in strings) for k in range(seq_len + 1)]
    for string in strings:
        k = sum(string)
        share = 1 / (seq_len + 1) / of_count[k]
        for kept in itertools.product((0, 1), repeat=k):
            probability = (1 - flip) ** sum(kept) * flip ** (k - sum(kept))
            weight[sum(kept)][k > seq_len / 2] += share * probability
    return sum(max(pair) for pair in weight)


@pytest.mark.parametrize("seq_len", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("flip", [0.0, 0.25, 0.5])
def test_noisy_accuracy_is_that_of_enumeration(seq_len: int, flip: float) -> None:
    expected = accuracy_of_the_best_rule_by_enumeration(seq_len, flip)
    assert best_count_rule(seq_len, flip).noisy_accuracy == pytest.approx(expected)


def test_without_noise_the_rule_is_perfect() -> None:
    rule = best_count_rule(40, 0.0)
    assert (rule.noisy_accuracy, rule.clean_accuracy) == (pytest.approx(1.0), 1.0)


def test_long_strings_lose_nothing_noisy_and_half_the_flip_probability_clean() -> None:
    rule = best_count_rule(1_000, 0.25)
    assert rule.noisy_accuracy == pytest.approx(1.0, abs=0.015)
    assert rule.clean_accuracy == pytest.approx(1 - 0.25 / 2, abs=0.005)
