"""PAC-Bayes: a certificate for a classifier that draws its weights anew for each prediction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from keelback.bounds._risk import check_confidence, kl_inverse
from keelback.certify._measure import require_finite
from keelback.certify._rounding import monte_carlo_bound, pac_bayes_bound, test_set_bound
from keelback.data import Split
from keelback.errors import InputError
from keelback.progress import tracked
from keelback.training import wrong

PRIOR_SIGMAS = tuple(2.0**-j for j in range(1, 13))
"""Candidates for the prior's standard deviation; the union bound over them is paid for."""

_SMALLEST_PROBABILITY = 1e-4
_SCOUTING_DRAWS = 20
_SCOUTING_EXAMPLES = 2000
_EXAMPLES_A_DRAW = 500


@dataclass(frozen=True)
class GaussianWeights:
    """A Gaussian over all weights with independent coordinates: means and log deviations.

    Examples:
        >>> weights = GaussianWeights.isotropic(torch.nn.Linear(2, 1), sigma=0.1)
        >>> float(weights.kl_from(weights))
        0.0
    """

    mean: Mapping[str, Tensor]
    log_sigma: Mapping[str, Tensor]

    @classmethod
    def isotropic(cls, model: nn.Module, sigma: float) -> "GaussianWeights":
        """N(weights of the model, sigma^2 I)."""
        mean = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        log_sigma = {name: torch.full_like(x, math.log(sigma)) for name, x in mean.items()}
        return cls(mean, log_sigma)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One set of weights, differentiable in means and deviations."""
        return {
            name: mean
            + self.log_sigma[name].exp()
            * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
            for name, mean in self.mean.items()
        }

    def kl_from(self, prior: "GaussianWeights") -> Float[Tensor, ""]:
        """KL(self || prior) in nats, summed in double precision."""
        total = torch.zeros((), dtype=torch.float64)
        for name, mean in self.mean.items():
            log_ratio = (self.log_sigma[name] - prior.log_sigma[name]).double()
            shift = (mean - prior.mean[name]).double() / prior.log_sigma[name].double().exp()
            total = total + ((2 * log_ratio).exp() + shift**2 - 1 - 2 * log_ratio).sum() / 2
        return total


@dataclass(frozen=True)
class PacBayesCertificate:
    """A bound on the error of the Gibbs classifier of `posterior`.

    Attributes:
        error_bound: with probability 1 - delta over the sample and the Monte-Carlo draws, the
            probability that weights drawn from `posterior` mislabel a new example is at most this.
        delta: failure probability, Monte Carlo included.
        sample_error: mean error of the drawn weights on the sample.
        sample_error_bound: its upper confidence bound.
        kl: KL(posterior || prior) in nats, rounded up; 0 where no gradient step was taken.
        prior_sigma: standard deviation of the prior.
        examples: size of the sample, which the prior's mean has not seen.
        draws: Monte-Carlo draws behind `sample_error`.
        draw_errors: how many of the examples tried each draw labels wrong.
        tried: how many examples each draw is tried on.
        steps: gradient steps that were taken; without one the posterior is the prior.
        posterior: the Gaussian from which the classifier draws its weights.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_train=100).split("train")
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> found = certify_pac_bayes(model, split, steps=0, draws=20)
        >>> found.delta, found.examples, found.draws
        (0.05, 100, 20)
    """

    error_bound: float
    delta: float
    sample_error: float
    sample_error_bound: float
    kl: float
    prior_sigma: float
    examples: int
    draws: int
    draw_errors: Sequence[int]
    tried: int
    steps: int
    posterior: GaussianWeights

    @property
    def kind(self) -> str:
        """`PAC-Bayes`, or `test set` where the sample decided nothing but the prior's sigma."""
        return "PAC-Bayes" if self.steps else "test set"


@torch.no_grad()
def gibbs_errors(
    model: nn.Module,
    weights: GaussianWeights,
    split: Split,
    draws: int,
    seed: int,
    examples: int | None = None,
) -> list[Fraction]:
    """Error rate of each of `draws` independent draws of the weights.

    Each is the rate on the whole split or, where that has more than `examples`, on that many of
    them, picked anew for each draw. Either way the rates are independent, lie in [0, 1], and their
    expectation is the Gibbs error on the split.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_test=50).split("test")
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> weights = GaussianWeights.isotropic(model, 0.01)
        >>> errors = gibbs_errors(model, weights, split, draws=3, seed=0)
        >>> len(errors), all(0 <= error <= 1 for error in errors)
        (3, True)
    """
    generator = torch.Generator().manual_seed(seed)
    rates = []
    for _ in tracked(range(draws), "drawing weights"):
        drawn = weights.draw(generator)
        picked = split
        if examples is not None and examples < len(split):
            index = torch.randperm(len(split), generator=generator)[:examples]
            picked = Split(split.tokens[index], split.labels[index], split.lengths[index])
        mistakes = sum(
            int(wrong(functional_call(model, drawn, (tokens,)), labels).sum())
            for tokens, labels in zip(
                picked.tokens.split(1000), picked.labels.split(1000), strict=True
            )
        )
        rates.append(Fraction(mistakes, len(picked)))
    return rates


def certify_pac_bayes(
    prior: nn.Module,
    sample: Split,
    *,
    delta: float | Fraction = 0.05,
    steps: int = 500,
    draws: int = 2000,
    batch_size: int = 250,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> PacBayesCertificate:
    """Optimise a Gaussian over the weights; bound the error of the classifier that draws from it.

    The prior is N(weights of `prior`, sigma_0^2 I). `prior` must not depend on `sample`: train it
    on other examples of the same distribution. sigma_0 is picked from `PRIOR_SIGMAS` by looking at
    the sample, which the union bound over them pays for. Means and deviations then descend the
    quadratic relaxation of the bound with a bounded cross-entropy. A fifth of delta goes to the
    Monte-Carlo estimate of the sample error, on draws that nothing else has used; each draw is
    tried on 500 examples at most, since many draws are worth more than many examples per draw.
    Without a gradient step the posterior is the prior: then the smaller test set bound holds, which
    pays for the choice of sigma_0 and for nothing else.

    Args:
        prior: a trained model; its weights are the prior's mean. It is not changed.
        sample: examples that `prior` has not seen.
        delta: failure probability of the whole statement.
        steps: gradient steps.
        draws: Monte-Carlo draws.
        batch_size: examples a step.
        learning_rate: of Adam.
        seed: of all draws.

    Raises:
        InputError: weights that are not finite, an empty sample, or an argument outside its domain.

    Source: docs/studies/bounds.md, PAC-Bayes; Perez-Ortiz et al., JMLR 2021 (objective and recipe).

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_train=100).split("train")
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> found = certify_pac_bayes(model, split, steps=0, draws=20)
        >>> found.sample_error <= found.error_bound <= 1
        True
    """
    check_confidence(float(delta))
    require_finite(prior)
    if seed < 0:
        raise InputError(f"seed = {seed} must not be negative")
    if steps < 0 or draws < 1 or batch_size < 1 or len(sample) < 1:
        raise InputError("need a sample, steps >= 0, draws >= 1 and batch_size >= 1")
    n = len(sample)
    tried = min(n, _EXAMPLES_A_DRAW)
    for_draws = Fraction(delta) / 5
    per_sigma = (Fraction(delta) - for_draws) / len(PRIOR_SIGMAS)
    log_complexity = math.log(2 * math.sqrt(n)) + math.log(per_sigma.denominator)
    log_complexity -= math.log(per_sigma.numerator)
    sigma = _scout(prior, sample, log_complexity / n, seed)
    start = GaussianWeights.isotropic(prior, sigma)
    posterior = _descend(
        prior, start, sample, log_complexity, steps, batch_size, learning_rate, seed + 1
    )
    rates = gibbs_errors(prior, posterior, sample, draws, seed + 2, _EXAMPLES_A_DRAW)
    kl = float(posterior.kl_from(start)) * (1 + 1e-9) + 1e-9 if steps else 0.0  # sums of doubles
    upper = monte_carlo_bound(rates, for_draws)
    bound = (
        pac_bayes_bound(upper, kl, n, per_sigma) if steps else test_set_bound(upper, n, per_sigma)
    )
    return PacBayesCertificate(
        error_bound=bound,
        delta=float(delta),
        sample_error=float(sum(rates) / draws),
        sample_error_bound=upper,
        kl=kl,
        prior_sigma=sigma,
        examples=n,
        draws=draws,
        draw_errors=[int(rate * tried) for rate in rates],
        tried=tried,
        steps=steps,
        posterior=posterior,
    )


def _scout(prior: nn.Module, sample: Split, budget: float, seed: int) -> float:
    """The largest deviation whose prior alone gives about the best bound on some examples."""
    scouted = sample.first(_SCOUTING_EXAMPLES)

    def estimate(sigma: float) -> float:
        weights = GaussianWeights.isotropic(prior, sigma)
        rates = gibbs_errors(prior, weights, scouted, _SCOUTING_DRAWS, seed)
        return kl_inverse(math.fsum(rates) / len(rates), budget)

    estimates = {sigma: estimate(sigma) for sigma in PRIOR_SIGMAS}
    best = min(estimates.values())
    return max(sigma for sigma, bound in estimates.items() if bound <= best + 0.01)


def _descend(
    model: nn.Module,
    start: GaussianWeights,
    sample: Split,
    log_complexity: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> GaussianWeights:
    """Adam on (sqrt(L + c) + sqrt(c))^2, c = (KL + log(2 sqrt(n) / delta)) / (2 n)."""
    generator = torch.Generator().manual_seed(seed)
    mean = {name: x.clone().requires_grad_(True) for name, x in start.mean.items()}
    log_sigma = {name: x.clone().requires_grad_(True) for name, x in start.log_sigma.items()}
    posterior = GaussianWeights(mean, log_sigma)
    optimiser = torch.optim.Adam([*mean.values(), *log_sigma.values()], lr=learning_rate)
    n = len(sample)
    for _ in tracked(range(steps), "optimising the bound"):
        picked = torch.randint(n, (min(batch_size, n),), generator=generator)
        drawn = posterior.draw(generator)
        logits = functional_call(model, drawn, (sample.tokens[picked],))
        loss = bounded_cross_entropy(logits, sample.labels[picked])
        complexity = (posterior.kl_from(start) + log_complexity) / (2 * n)
        objective = ((loss + complexity).sqrt() + complexity.sqrt()) ** 2
        optimiser.zero_grad()
        objective.backward()
        if all(torch.isfinite(x.grad).all() for x in optimiser.param_groups[0]["params"]):
            optimiser.step()
    return GaussianWeights(
        {name: x.detach() for name, x in mean.items()},
        {name: x.detach() for name, x in log_sigma.items()},
    )


def bounded_cross_entropy(
    logits: Float[Tensor, "examples *classes"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy with probabilities kept above 1e-4, scaled into [0, 1].

    Source: Perez-Ortiz et al., JMLR 2021, Section 5.

    Examples:
        >>> logits = torch.tensor([8.0, -8.0])
        >>> bounded_cross_entropy(logits, torch.tensor([1, 0])) < 0.01
        tensor(True)
    """
    if logits.ndim == 1:
        log_p = F.logsigmoid(torch.where(labels == 1, logits, -logits))
    else:
        log_p = F.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)
    return log_p.clamp(min=math.log(_SMALLEST_PROBABILITY)).mean() / math.log(_SMALLEST_PROBABILITY)
