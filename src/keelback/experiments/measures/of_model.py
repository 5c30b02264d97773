"""Candidate predictors of the generalisation gap, measured on one trained classifier."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from keelback.bounds import log_covering_gap, published_log_rademacher, sharpened_log_rademacher
from keelback.certify import logits, margins, measure_constants
from keelback.data import Split
from keelback.models import SelectiveClassifier, class_constants
from keelback.scan import switched_scan
from keelback.training import error_rate

Weights = Mapping[str, Tensor]

_LN10 = math.log(10)
_SIGMAS = tuple(2.0 ** (step / 2) for step in range(-20, 5))
_DRAWS = 10
_EXAMPLES = 500
_RISE = 0.05
_NOISE_GROUP = 10
_NOISE_BATCH = 32
_CONSTRAINTS = 16
_SMALLEST_EIGENVALUE = 1e-6


@dataclass(frozen=True)
class Candidate:
    """A measure, and whether the gap should grow (+1) or shrink (-1) with it."""

    key: str
    label: str
    sign: int = 1


CANDIDATES = (
    Candidate("inverse_m", "1 / m (known before training)"),
    Candidate("parameters", "number of weights (known before training)"),
    Candidate("published", "published bound"),
    Candidate("sharpened", "sharpened bound"),
    Candidate("published_over_margin", "published bound over margin"),
    Candidate("sharpened_over_margin", "sharpened bound over margin"),
    Candidate("covering", "covering bound at the margin"),
    Candidate("s_A", "spectral abscissa"),
    Candidate("growth", "growth factor over the sequence"),
    Candidate("B_u", "B_u, largest token norm"),
    Candidate("B_q", "B_q, l2 norm of q"),
    Candidate("M_q", "M_q, l1 norm of q"),
    Candidate("B_B", "B_B, spectral norm of W_B"),
    Candidate("M_B", "M_B, l1 norm of W_B"),
    Candidate("B_C", "B_C, spectral norm of W_C"),
    Candidate("M_C", "M_C, l1 norm of W_C"),
    Candidate("B_w", "B_w, l2 norm of the head"),
    Candidate("M_w", "M_w, l1 norm of the head"),
    Candidate("l2_norm", "l2 norm of all weights"),
    Candidate("distance", "distance from the initial weights"),
    Candidate("path_norm", "path norm on the sample"),
    Candidate("margin", "median margin", -1),
    Candidate("relative_margin", "median margin over spread of logits", -1),
    Candidate("sharpness", "sharpness, 1 / sigma^2"),
    Candidate("pac_bayes_kl", "PAC-Bayes KL"),
    Candidate("pac_bayes", "PAC-Bayes bound"),
    Candidate("iic", "interpolating information criterion"),
    Candidate("weight_tail", "tail exponent of weight spectra"),
    Candidate("gradient_tail", "tail index of gradient noise"),
    Candidate("gradient_noise", "size of gradient noise"),
)


def measure(
    model: SelectiveClassifier, initial: Weights, train: Split, batch_size: int, seed: int
) -> dict[str, float]:
    """Every candidate's value on a trained model.

    Args:
        model: the trained model.
        initial: its weights before training.
        train: the examples it was trained on.
        batch_size: of the training, for the gradient noise.
        seed: of the perturbations and mini-batches.

    Source: docs/studies/bounds.md, section on measures, says of each what it is and where it
    comes from.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    moved = math.sqrt(sum(float((x - initial[name]).square().sum()) for name, x in weights.items()))
    found = _margin_measures(model, train)
    found |= _bound_measures(model, train, found["margin"])
    found |= _norms(model, weights, train.seq_len)
    sigma = tolerated_deviation(model, train, generator)
    kl = moved**2 / (2 * sigma**2)
    m = len(train)
    return {
        **found,
        "inverse_m": 1 / m,
        "parameters": sum(x.numel() for x in weights.values()),
        "l2_norm": math.sqrt(sum(float(x.square().sum()) for x in weights.values())),
        "distance": moved,
        "path_norm": path_norm(model, train.first(_EXAMPLES)),
        "sharpness": 1 / sigma**2,
        "pac_bayes_kl": kl,
        "pac_bayes": math.sqrt((kl + math.log(2 * math.sqrt(m) / 0.05)) / (2 * m)),
        "iic": _interpolating_information(model, train, moved, generator),
        "weight_tail": _weight_tail(weights),
        **_gradient_noise(model, train, batch_size, generator),
    }


def _margin_measures(model: SelectiveClassifier, train: Split) -> dict[str, float]:
    z = logits(model, train)
    on_sample = margins(z, train.labels)
    right = on_sample[on_sample > 0]
    margin = float(right.median()) if len(right) else math.nan
    return {"margin": margin, "relative_margin": margin / float(z.std())}


def _bound_measures(model: SelectiveClassifier, train: Split, margin: float) -> dict[str, float]:
    constants = measure_constants(model, train.seq_len, len(train))
    vocab_size, classes = model.config.vocab_size, model.config.n_classes
    published = published_log_rademacher(constants) / _LN10
    sharpened = sharpened_log_rademacher(constants, vocab_size=vocab_size) / _LN10
    found = {"published": published, "sharpened": sharpened}
    if margin > 0:
        found["published_over_margin"] = published - math.log10(margin)
        found["sharpened_over_margin"] = sharpened - math.log10(margin)
        gap = log_covering_gap(
            constants, margin=margin, delta=0.05, classes=classes, vocab_size=vocab_size
        )
        found["covering"] = gap / _LN10
    return found


def _norms(model: SelectiveClassifier, weights: Weights, seq_len: int) -> dict[str, float]:
    every_token = torch.ones(model.config.vocab_size, dtype=torch.bool)
    constants = {k: float(x) for k, x in class_constants(model, weights, every_token).items()}
    names = ("s_A", "B_u", "B_q", "M_q", "B_B", "M_B", "B_C", "M_C", "B_w", "M_w")
    growth = seq_len * math.log10(constants["growth"])
    return {**{name: constants[name] for name in names}, "growth": growth}


@torch.no_grad()
def path_norm(model: SelectiveClassifier, sample: Split) -> float:
    """log10 of the mean over a sample of the sum of |products of weights| along all paths.

    A path leads from one coordinate of one token through W_B, a state, W_C and the head to a logit;
    the steps and decays are the model's own. Several classes are averaged.
    """
    ssm, u = model.ssm, model.embedding
    delta = ssm.delta(u).unsqueeze(-1)
    decay = torch.exp(delta.unsqueeze(-1) * ssm.A)
    size = u.abs()
    keys, queries = size @ ssm.W_B.abs().T, size @ ssm.W_C.abs().T
    drive = (delta * size).unsqueeze(-1) * keys.unsqueeze(-2)
    state = switched_scan(sample.tokens, decay.flatten(-2), drive.flatten(-2))
    query = queries[sample.tokens[:, -1].long()].unsqueeze(-2)
    y = (state.unflatten(-1, ssm.A.shape) * query).sum(-1)
    head = model.head.weight.abs().reshape(-1, y.shape[-1])
    return math.log10(float((y.double() @ head.double().T).mean()))


@torch.no_grad()
def tolerated_deviation(
    model: SelectiveClassifier, train: Split, generator: torch.Generator
) -> float:
    """The deviation of Gaussian noise on all weights that raises the training error by 0.05.

    The error is a mean over draws; between deviations of a fixed grid it is interpolated.

    Source: Jiang et al., ICLR 2020, Appendix C (PAC-Bayes and sharpness measures).
    """
    sample = train.first(_EXAMPLES)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    allowed = error_rate(logits(model, sample), sample.labels) + _RISE
    lower, error_at_lower = 0.0, allowed - _RISE
    for sigma in _SIGMAS:
        drawn = {
            name: x + sigma * torch.randn(_DRAWS, *x.shape, generator=generator)
            for name, x in weights.items()
        }
        error = _mean_error(model, drawn, sample)
        if error > allowed:
            share = (allowed - error_at_lower) / (error - error_at_lower)
            return lower + share * (sigma - lower)
        lower, error_at_lower = sigma, error
    return _SIGMAS[-1]


def _mean_error(model: SelectiveClassifier, drawn: Weights, sample: Split) -> float:
    z = functional_call(model, dict(drawn), (sample.tokens.expand(_DRAWS, -1, -1),))
    labels = sample.labels.expand(_DRAWS, -1)
    return error_rate(z.flatten(0, 1), labels.flatten())


def _gradients(
    model: SelectiveClassifier, train: Split, picked: Tensor, own_logit: bool
) -> Float[Tensor, "rows size"]:
    """The gradient of the mean loss (or of the labels' logits) over each row of examples."""
    rows = len(picked)
    copies = {
        name: x.detach().expand(rows, *x.shape).clone().requires_grad_()
        for name, x in model.named_parameters()
    }
    z = functional_call(model, copies, (train.tokens[picked],))
    labels = train.labels[picked]
    if own_logit:
        value = z if z.ndim == 2 else z.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    elif z.ndim == 2:
        value = F.binary_cross_entropy_with_logits(z, labels.to(z.dtype), reduction="none")
    else:
        value = F.cross_entropy(z.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    gradients = torch.autograd.grad(value.mean(1).sum(), list(copies.values()))
    return torch.cat([g.flatten(1) for g in gradients], dim=1).double()


def _gradient_noise(
    model: SelectiveClassifier, train: Split, batch_size: int, generator: torch.Generator
) -> dict[str, float]:
    """Tail index and log10 size of the difference of mini-batch gradients from their mean."""
    shape = (_NOISE_GROUP**2, min(batch_size, _NOISE_BATCH))
    picked = torch.randint(len(train), shape, generator=generator)
    gradients = _gradients(model, train, picked, own_logit=False)
    noise = gradients - gradients.mean(0)
    return {
        "gradient_tail": tail_index(noise),
        "gradient_noise": math.log10(float(noise.square().sum(1).mean())) / 2,
    }


def tail_index(noise: Float[Tensor, "draws size"]) -> float:
    """The index alpha of an alpha-stable law, from K^2 draws; 2 is Gaussian, less is heavier.

    1 / alpha is the mean of log |sum of K draws| less that of log |draw|, over log K, averaged over
    the coordinates.

    Source: Mohammadi et al., Metrika 2015, Theorem 2.3; Simsekli et al., ICML 2019.
    """
    draws, _ = noise.shape
    group = math.isqrt(draws)
    moving = noise[: group**2, noise.abs().amin(0) > 0]
    if moving.shape[1] == 0:
        return math.nan
    sums = moving.unflatten(0, (group, group)).sum(0)
    inverse = (sums.abs().log().mean(0) - moving.abs().log().mean(0)) / math.log(group)
    return 1 / float(inverse.mean())


def _weight_tail(weights: Weights) -> float:
    """Mean maximum-likelihood power-law exponent of the squared singular values of the matrices.

    Source: Martin and Mahoney, JMLR 2021 (with all singular values in the tail, as they are few).
    """
    exponents = []
    for name in ("embedding", "ssm.W_B", "ssm.W_C"):
        spectrum = torch.linalg.svdvals(weights[name].double()).square()
        ratio = float((spectrum / spectrum[-1]).log().sum())
        if math.isfinite(ratio) and ratio > 0:
            exponents.append(1 + (len(spectrum) - 1) / ratio)
    return sum(exponents) / len(exponents) if exponents else math.nan


def _interpolating_information(
    model: SelectiveClassifier, train: Split, moved: float, generator: torch.Generator
) -> float:
    """log |theta - theta_0|^2 + (1/n) log det(J J^T) - log n, for n examples as constraints.

    Eigenvalues of J J^T below 1e-6 of the largest count as that, the accuracy of the Jacobian.

    Source: Hodgkinson et al., arXiv 2307.07785, the closed form for a Gaussian prior without its
    curvature term.
    """
    n = min(_CONSTRAINTS, len(train))
    picked = torch.randperm(len(train), generator=generator)[:n].unsqueeze(1)
    jacobian = _gradients(model, train, picked, own_logit=True)
    eigenvalues = torch.linalg.eigvalsh(jacobian @ jacobian.T)
    floor = float(eigenvalues[-1]) * _SMALLEST_EIGENVALUE
    if not floor > 0 or moved == 0:
        return math.nan
    return 2 * math.log(moved) + float(eigenvalues.clamp(min=floor).log().mean()) - math.log(n)
