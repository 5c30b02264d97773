"""The exact empirical Rademacher complexity of small classes lies between lower and upper bound.

For every sign vector the supremum over the class is searched by gradient ascent from several
starts, so what is found is at most the true complexity. On the sample of m equal sequences the
complexity is known exactly.
"""

import itertools
import math

import pytest
import torch
from bounds_reference import SMALL, free_point, in_class, selective_logit, with_constants
from torch import Tensor

from keelback.bounds import (
    ClassConstants,
    log_mean_absolute_sign_sum,
    log_output_bound,
    lower_log_rademacher,
    published_log_rademacher,
    sharpened_log_rademacher,
)


def logits(c: ClassConstants, free: dict[str, Tensor], sample: Tensor) -> Tensor:
    """Logits of every member (restart) on every sequence of the sample: (restarts, m)."""
    theta, _ = in_class(c, free)
    columns = [
        selective_logit(theta, sequence.expand(len(theta["p"]), *sequence.shape))
        for sequence in sample
    ]
    return torch.stack(columns, dim=1)


def searched_complexity(c: ClassConstants, sample: Tensor, starts: int, steps: int) -> float:
    """Mean over all sign vectors of the largest correlation found; at most Rad."""
    m = len(sample)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=m)), dtype=torch.float64)
    signs = signs[signs[:, 0] > 0]  # the class is closed under w -> -w
    targets = signs.repeat_interleave(starts, dim=0)
    free = free_point(c, len(targets), seed=1)
    free = {name: x.requires_grad_(True) for name, x in free.items() if name != "u"}
    free["u"] = free_point(c, len(targets), seed=1)["u"]
    optimiser = torch.optim.Adam([x for x in free.values() if x.requires_grad], lr=0.15)
    best = torch.zeros(len(targets), dtype=torch.float64)
    for _ in range(steps):
        correlation = (targets * logits(c, free, sample)).mean(1)
        best = torch.maximum(best, correlation.detach())
        optimiser.zero_grad()
        (-correlation.sum()).backward()
        optimiser.step()
    return best.view(len(signs), starts).amax(1).mean().item()


@pytest.mark.parametrize("s_A", [-1.0, 0.0, 0.4])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_searched_complexity_of_equal_sequences_lies_between(s_A: float, m: int) -> None:
    c = with_constants(s_A=s_A, T=3, m=m)
    first = torch.zeros(c.T, c.d, dtype=torch.float64)
    first[:, 0] = c.B_u
    found = searched_complexity(c, first.expand(m, c.T, c.d), starts=4, steps=120)
    lower, upper = math.exp(lower_log_rademacher(c)), math.exp(sharpened_log_rademacher(c))
    assert 0.9 * lower <= found <= upper * (1 + 1e-9)
    assert upper <= math.exp(published_log_rademacher(c))


@pytest.mark.parametrize("s_A", [-1.0, 0.0, 0.4])
def test_searched_complexity_of_different_sequences_stays_below_the_upper_bound(
    s_A: float,
) -> None:
    c = with_constants(s_A=s_A, T=4, m=6)
    sample = free_point(c, c.m, seed=9)["u"]
    sample = c.B_u * sample / sample.norm(dim=-1, keepdim=True)
    found = searched_complexity(c, sample, starts=4, steps=100)
    assert 0 < found <= math.exp(sharpened_log_rademacher(c))
    assert found <= math.exp(log_output_bound(c))


def test_complexity_of_a_single_point_is_its_largest_output_exactly() -> None:
    c = with_constants(m=1)
    assert lower_log_rademacher(c) == pytest.approx(log_output_bound(c))
    assert sharpened_log_rademacher(c) == pytest.approx(log_output_bound(c))


@pytest.mark.parametrize("m", [1, 2, 3, 8, 13])
def test_mean_absolute_sign_sum_by_enumeration(m: int) -> None:
    total = sum(abs(sum(signs)) for signs in itertools.product((-1, 1), repeat=m))
    assert math.exp(log_mean_absolute_sign_sum(m)) == pytest.approx(total / 2**m, rel=1e-12)


def test_mean_absolute_sign_sum_is_smooth_across_the_change_of_formula() -> None:
    for m in (10**6, 10**6 + 1, 10**6 + 2, 10**12):
        expected = 0.5 * math.log(2 * m / math.pi)
        assert log_mean_absolute_sign_sum(m) == pytest.approx(expected, abs=1e-6)


def test_a_smaller_magnitude_gives_a_smaller_lower_bound() -> None:
    log_half = log_output_bound(SMALL) - math.log(2)
    assert lower_log_rademacher(SMALL, log_half) == pytest.approx(
        lower_log_rademacher(SMALL) - math.log(2)
    )
