"""PAC-Bayes, Monte-Carlo and held-out bounds against oracles, and certificates put to the test."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from keelback.bounds import clopper_pearson, kl_inverse, monte_carlo_bound, pac_bayes_bound
from keelback.certify import (
    PRIOR_SIGMAS,
    GaussianWeights,
    bounded_cross_entropy,
    certify_pac_bayes,
    gibbs_errors,
    margins,
    ramp_risk,
    wrong,
)
from keelback.data import Split, get_task
from keelback.errors import InputError
from keelback.models import SelectiveSSMConfig
from keelback.training import Recipe, train


def some_model(classes: int = 2, vocab_size: int = 2) -> torch.nn.Module:
    config = SelectiveSSMConfig(
        vocab_size=vocab_size, n_classes=classes, d_model=3, d_state=2, spectral_abscissa=-0.1
    )
    return config.build(torch.Generator().manual_seed(0))


def some_split(examples: int, classes: int = 2) -> Split:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, (examples, 6), generator=generator, dtype=torch.int32)
    labels = torch.randint(classes, (examples,), generator=generator)
    return Split(tokens, labels, torch.full((examples,), 6))


def test_kl_of_gaussians_agrees_with_torch() -> None:
    prior = GaussianWeights.isotropic(some_model(), 0.3)
    generator = torch.Generator().manual_seed(2)
    posterior = GaussianWeights(
        {n: x + 0.1 * torch.randn(x.shape, generator=generator) for n, x in prior.mean.items()},
        {n: x + torch.randn(x.shape, generator=generator) for n, x in prior.log_sigma.items()},
    )
    expected = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Normal(
                posterior.mean[n].double(), posterior.log_sigma[n].double().exp()
            ),
            torch.distributions.Normal(prior.mean[n].double(), prior.log_sigma[n].double().exp()),
        ).sum()
        for n in prior.mean
    )
    assert posterior.kl_from(prior).item() == pytest.approx(float(expected), rel=1e-6)
    assert prior.kl_from(prior).item() == 0


def test_draws_have_the_means_and_deviations_they_should() -> None:
    weights = GaussianWeights.isotropic(some_model(), 0.5)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.stack([weights.draw(generator)["ssm.q"] for _ in range(4000)])
    assert torch.allclose(drawn.mean(0), weights.mean["ssm.q"], atol=0.04)
    assert torch.allclose(drawn.std(0), torch.full((3,), 0.5), atol=0.03)


def test_pac_bayes_bound_is_the_theorem_and_rises_with_kl() -> None:
    budget = (3.0 + math.log(2 * math.sqrt(400) / 0.05)) / 400
    assert pac_bayes_bound(0.1, 3.0, 400, 0.05) == pytest.approx(kl_inverse(0.1, budget))
    bounds = [pac_bayes_bound(0.1, kl, 400, 0.05) for kl in (0.0, 1.0, 10.0, 1e9)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(1)
    for arguments in ((0.1, -1.0, 400, 0.05), (0.1, 1.0, 0, 0.05), (0.1, math.nan, 9, 0.05)):
        with pytest.raises(InputError, match="PAC-Bayes"):
            pac_bayes_bound(*arguments)


@pytest.mark.parametrize(("errors", "examples"), [(0, 10), (3, 10), (9, 10), (40, 1000)])
def test_clopper_pearson_is_where_the_binomial_tail_is_delta(errors: int, examples: int) -> None:
    bound = clopper_pearson(errors, examples, 0.05)
    assert binom.cdf(errors, examples, bound) == pytest.approx(0.05, rel=1e-9)


def test_clopper_pearson_at_its_ends() -> None:
    assert clopper_pearson(10, 10, 0.05) == 1
    assert clopper_pearson(0, 10, 0.05) == pytest.approx(1 - 0.05**0.1)
    for arguments in ((-1, 10, 0.05), (11, 10, 0.05), (0, 0, 0.05)):
        with pytest.raises(InputError, match="not possible"):
            clopper_pearson(*arguments)
    with pytest.raises(InputError, match="delta"):
        clopper_pearson(1, 10, 1.0)


@pytest.mark.parametrize("true", [0.05, 0.4])
def test_held_out_and_monte_carlo_bounds_fail_no_more_often_than_delta(true: float) -> None:
    generator = np.random.default_rng(0)
    counts, times = np.unique(generator.binomial(200, true, size=4000), return_counts=True)
    coins = {k: [1.0] * int(k) + [0.0] * (200 - int(k)) for k in counts}
    below = [
        (
            clopper_pearson(int(k), 200, 0.1) < true,
            monte_carlo_bound(coins[k], 0.1) < true,
        )
        for k in counts
    ]
    exact, tail = times @ np.array(below) / 4000
    assert exact <= 0.1 + 3 * math.sqrt(0.09 / 4000)
    assert tail <= exact
    with pytest.raises(InputError, match="at least one draw"):
        monte_carlo_bound([], 0.1)


def test_monte_carlo_bound_uses_the_small_spread_of_error_rates() -> None:
    generator = np.random.default_rng(1)
    rates = (0.8 + 0.01 * generator.standard_normal(2000)).tolist()
    assert monte_carlo_bound(rates, 0.01) < 0.81
    assert monte_carlo_bound([0.3], 0.01) == pytest.approx(kl_inverse(0.3, math.log(200)))
    failures = [
        monte_carlo_bound(generator.beta(2, 8, size=50).tolist(), 0.2) < 0.2 for _ in range(300)
    ]
    assert np.mean(failures) <= 0.2


def test_bounded_cross_entropy_lies_between_zero_and_one() -> None:
    labels = torch.tensor([1, 0])
    sure, lost = torch.tensor([200.0, -200.0]), torch.tensor([-200.0, 200.0])
    assert bounded_cross_entropy(sure, labels).item() == pytest.approx(0)
    assert bounded_cross_entropy(lost, labels).item() == pytest.approx(1)
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.1, 0.2, 0.3]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0])) / math.log(1e4)
    assert bounded_cross_entropy(logits, torch.tensor([2, 0])).item() == pytest.approx(
        expected.item()
    )


def test_margins_errors_and_ramp_risk_of_known_logits() -> None:
    binary, labels = torch.tensor([2.0, -0.5, 0.25, 0.0]), torch.tensor([1, 1, 0, 0])
    assert margins(binary, labels).tolist() == [2.0, -0.5, -0.25, 0.0]
    assert wrong(binary, labels).tolist() == [False, True, True, False]
    assert ramp_risk(margins(binary, labels), 4.0) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    several = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, -1.0]])
    assert margins(several, torch.tensor([1, 2])).tolist() == [1.0, -1.0]
    assert wrong(several, torch.tensor([1, 2])).tolist() == [False, True]
    assert ramp_risk(torch.tensor([math.nan, 5.0]), 1.0) == 0.5


@pytest.mark.parametrize("classes", [2, 4])
def test_certificate_without_steps_is_the_prior_and_adds_up(classes: int) -> None:
    model, split = some_model(classes), some_split(60, classes)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = certify_pac_bayes(model, split, steps=0, draws=40, delta=0.1)
    assert (found.kl, found.kind) == (0, "test set")
    per_sigma = 0.8 * 0.1 / len(PRIOR_SIGMAS)
    assert found.error_bound == pytest.approx(
        kl_inverse(found.sample_error_bound, -math.log(per_sigma) / 60)
    )
    assert found.error_bound < pac_bayes_bound(found.sample_error_bound, 0.0, 60, per_sigma)
    assert found.sample_error <= found.sample_error_bound <= found.error_bound <= 1
    again = gibbs_errors(model, found.posterior, split, 40, seed=2)
    assert math.fsum(again) / 40 == pytest.approx(found.sample_error)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_draws_on_a_part_of_the_split_have_the_same_mean() -> None:
    """No noise in the weights: the rates of parts are hypergeometric around the rate of all."""
    model, split = some_model(), some_split(400)
    still = GaussianWeights.isotropic(model, 1e-12)
    [whole] = gibbs_errors(model, still, split, 1, seed=0)
    parts = gibbs_errors(model, still, split, 300, seed=0, examples=50)
    assert len(set(parts)) > 3
    spread = math.sqrt(whole * (1 - whole) / 50 / 300)
    assert math.fsum(parts) / 300 == pytest.approx(whole, abs=4 * spread)
    assert gibbs_errors(model, still, split, 2, seed=0, examples=400) == [whole, whole]


def test_certificates_are_reproducible_and_steps_move_the_posterior() -> None:
    model, split = some_model(), some_split(80)
    first, second = (certify_pac_bayes(model, split, steps=5, draws=20, seed=4) for _ in range(2))
    assert first.error_bound == second.error_bound
    assert first.kl == second.kl > 0
    assert first.kind == "PAC-Bayes"


def test_certificates_refuse_bad_arguments_and_weights() -> None:
    model, split = some_model(), some_split(20)
    with pytest.raises(InputError, match="draws >= 1"):
        certify_pac_bayes(model, split, draws=0)
    with pytest.raises(InputError, match="delta"):
        certify_pac_bayes(model, split, delta=0.0)
    with torch.no_grad():
        model.get_parameter("ssm.q")[0] = math.nan
    with pytest.raises(InputError, match=r"ssm\.q holds NaN"):
        certify_pac_bayes(model, split)


@pytest.mark.slow
def test_a_majority_classifier_is_certified_below_thirty_percent() -> None:
    """m = 1000 noisy examples: half train the prior, half certify; fresh ones check the promise."""
    task = get_task("majority", seq_len=50, data_seed=1)
    examples = task.split("train")
    half = [
        Split(examples.tokens[part], examples.labels[part], examples.lengths[part])
        for part in (slice(0, 500), slice(500, 1000))
    ]
    prior = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(1))
    [result] = train([prior], [half[0]], Recipe(epochs=20), [1])
    prior.load_state_dict(result.weights)
    found = certify_pac_bayes(prior, half[1], steps=100, draws=300)
    fresh = get_task("majority", seq_len=50, data_seed=77, n_train=4000).split("train")
    rates = gibbs_errors(prior, found.posterior, fresh, 20, seed=5)
    assert found.error_bound < 0.3
    assert math.fsum(rates) / 20 < found.error_bound
