"""Certificates of one trained model on one task: class bounds, PAC-Bayes, held-out examples."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from keelback.bounds import clopper_pearson
from keelback.certify._class_certificate import ClassCertificate, ClassCertificates, certify_class
from keelback.certify._measure import logits
from keelback.certify._pac_bayes import PacBayesCertificate, certify_pac_bayes, gibbs_errors
from keelback.data import Split, Task
from keelback.errors import InputError, JobError
from keelback.progress import tell
from keelback.training import Recipe, train, wrong

_TEST_DRAWS = 50
_EXAMPLES_A_TEST_DRAW = 2000


@dataclass(frozen=True)
class HeldOut:
    """Errors of one classifier on examples that it has not seen, and what they certify."""

    errors: int
    examples: int
    error: float
    bound: float


@dataclass(frozen=True)
class PacBayes:
    """A PAC-Bayes certificate and how its classifier does on examples that nothing has seen."""

    certificate: PacBayesCertificate
    prior_examples: int
    error: dict[str, float]


@dataclass(frozen=True)
class Certification:
    """Everything that is certified about a checkpoint, each statement at confidence 1 - delta."""

    delta: float
    shifted_test: bool
    class_bounds: ClassCertificates
    held_out: dict[str, HeldOut]
    pac_bayes: PacBayes | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The certification for JSON."""
        pac_bayes = None
        if self.pac_bayes is not None:
            found = self.pac_bayes.certificate
            pac_bayes = {
                "error_bound": found.error_bound,
                "sample_error": found.sample_error,
                "sample_error_bound": found.sample_error_bound,
                "kl": found.kl,
                "prior_sigma": found.prior_sigma,
                "examples": found.examples,
                "prior_examples": self.pac_bayes.prior_examples,
                "draws": found.draws,
                "error": self.pac_bayes.error,
            }
        bounds = self.class_bounds
        return {
            "delta": self.delta,
            "constants": bounds.a_priori.constants.as_dict(),
            "a_priori": _class_fields(bounds.a_priori),
            "a_posteriori": _class_fields(bounds.a_posteriori),
            "pac_bayes": pac_bayes,
            "held_out": {name: vars(found) for name, found in self.held_out.items()},
            "verdict": self.verdict(),
        }

    def verdict(self) -> str:
        """One sentence a bound: which say something, which are vacuous and by how much."""
        says = []
        for when, found in (
            ("announced in advance", self.class_bounds.a_priori),
            ("read off the trained model", self.class_bounds.a_posteriori),
        ):
            routes = [f"{route} {_worth(log)}" for route, log in found.log_risk.items()]
            says.append(f"For the class {when}: {', '.join(routes)}.")
        if self.pac_bayes is not None:
            found_bound = self.pac_bayes.certificate.error_bound
            says.append(
                "PAC-Bayes, for weights drawn anew from the posterior at each prediction, on the "
                f"training distribution: error at most {found_bound:.3f}."
            )
        for name, held in self.held_out.items():
            distribution = _DISTRIBUTIONS[name] if self.shifted_test else "the data's distribution"
            says.append(
                f"Held out, for the checkpoint itself, on {distribution}: error {held.error:.3f}, "
                f"at most {held.bound:.3f}."
            )
        return " ".join(says)


_DISTRIBUTIONS = {"test": "the test distribution", "fresh": "the training distribution"}


def certify_model(
    model: nn.Module,
    task: Task,
    *,
    delta: float = 0.05,
    pac_bayes: bool = True,
    prior_share: float = 0.5,
    prior_recipe: Recipe | None = None,
    steps: int = 500,
    draws: int = 2000,
    seed: int = 0,
) -> Certification:
    """Certify a model that was trained on a task's training split.

    Three kinds of statement, each at confidence 1 - delta. (1) Class bounds for the checkpoint on
    the training distribution. (2) PAC-Bayes: a fresh model of the same configuration is trained
    on `prior_share` of the training split and becomes the mean of the prior; the certificate uses
    the rest, is about weights drawn from the posterior, and about the training distribution. (3)
    Clopper-Pearson for the checkpoint, on the test split, and, where the task's test split is
    drawn from another distribution, also on fresh examples of the training distribution.

    Args:
        model: a `SelectiveClassifier` for the task.
        task: where its examples come from.
        delta: failure probability of each statement.
        pac_bayes: whether to do (2), which trains a model.
        prior_share: share of the training split that the prior's mean is trained on.
        prior_recipe: how the prior's mean is trained; `Recipe()` by default.
        steps: gradient steps on the PAC-Bayes bound.
        draws: Monte-Carlo draws behind it.
        seed: of the split of the training data, the prior's training and all draws.

    Raises:
        InputError: weights that are not finite, another architecture, or an argument outside its
            domain.
        JobError: the prior's training diverged.
    """
    if not 0 < prior_share < 1:
        raise InputError(f"prior_share = {prior_share:g} must lie strictly between 0 and 1")
    examples, test = task.train_and_test()
    tell("measuring the class")
    class_bounds = certify_class(model, examples, delta=delta)
    unseen = {"test": test}
    if task.shifted_test:
        unseen["fresh"] = task.fresh().split("train")
    tell("scoring examples held out")
    held_out = {name: _hold_out(model, split, delta) for name, split in unseen.items()}
    found = None
    if pac_bayes:
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
        cut = round(prior_share * len(examples))
        if not 0 < cut < len(examples):
            raise InputError(f"{len(examples)} examples cannot be split for a prior")
        prior = _train_prior(model, _select(examples, order[:cut]), prior_recipe or Recipe(), seed)
        rest = _select(examples, order[cut:])
        certificate = certify_pac_bayes(
            prior, rest, delta=delta, steps=steps, draws=draws, seed=seed
        )
        tell("testing the posterior")
        error = {
            name: math.fsum(
                gibbs_errors(
                    prior, certificate.posterior, split, _TEST_DRAWS, seed, _EXAMPLES_A_TEST_DRAW
                )
            )
            / _TEST_DRAWS
            for name, split in unseen.items()
        }
        found = PacBayes(certificate, cut, error)
    return Certification(delta, task.shifted_test, class_bounds, held_out, found)


def _select(split: Split, index: torch.Tensor) -> Split:
    return Split(split.tokens[index], split.labels[index], split.lengths[index])


def _hold_out(model: nn.Module, split: Split, delta: float) -> HeldOut:
    errors = int(wrong(logits(model, split), split.labels).sum())
    return HeldOut(
        errors=errors,
        examples=len(split),
        error=errors / len(split),
        bound=clopper_pearson(errors, len(split), delta),
    )


def _train_prior(model: Any, examples: Split, recipe: Recipe, seed: int) -> nn.Module:
    prior: nn.Module = model.config.build(torch.Generator().manual_seed(seed))
    [result] = train(
        [prior],
        [examples],
        recipe,
        [seed],
        on_epoch=lambda epoch, living: tell("training the prior", epoch, recipe.epochs),
    )
    if result.divergence is not None:
        raise JobError(
            f"training the prior diverged in epoch {result.divergence.epoch}; another seed may help"
        )
    prior.load_state_dict(result.weights)
    return prior


def _class_fields(found: ClassCertificate) -> dict[str, Any]:
    return {
        "constants": found.constants.as_dict(),
        "margin": found.margin,
        "delta": found.delta,
        "sample_ramp_risk": found.sample_risk,
        **{key: value for key, value in found.summary.as_dict().items() if key != "risk"},
        "risk": {
            route: {"log10": log / math.log(10), "vacuous": log >= 0}
            for route, log in found.log_risk.items()
        },
    }


def _worth(log: float) -> str:
    if log < 0:
        return f"error at most {math.exp(log):.3f}"
    if log == 0:
        return "vacuous (1)"
    return f"vacuous by {log / math.log(10):.1f} orders of magnitude"
