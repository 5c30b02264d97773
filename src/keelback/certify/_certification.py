"""Certificates of one trained model on one task: class bounds, PAC-Bayes, held-out examples."""

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from keelback.bounds._risk import check_confidence
from keelback.certify._class_certificate import ClassCertificate, ClassCertificates, certify_class
from keelback.certify._held_out import HeldOut, commonest_label, hold_out, take
from keelback.certify._overlap import Policy
from keelback.certify._pac_bayes import PacBayesCertificate, certify_pac_bayes, gibbs_errors
from keelback.certify._rounding import rounding
from keelback.certify._unseen import Unseen, unseen
from keelback.data import Split, Task
from keelback.errors import InputError, JobError
from keelback.progress import tell
from keelback.training import Recipe, train

_TEST_DRAWS = 50
_EXAMPLES_A_TEST_DRAW = 2000


@dataclass(frozen=True)
class PacBayes:
    """A PAC-Bayes certificate and how its classifier does on examples that nothing has seen.

    Attributes:
        certificate: the bound and what is behind it.
        prior_examples: how many examples the prior's mean was trained on.
        error: of the classifier, by split.
        constant: the best constant answer to the prior's examples, on those of the certificate.
        sample: what was found of the prior's examples among the certificate's.
    """

    certificate: PacBayesCertificate
    prior_examples: int
    error: dict[str, float]
    constant: HeldOut
    sample: Unseen


@dataclass(frozen=True)
class Certification:
    """Everything that is certified about a checkpoint, each statement at confidence 1 - delta.

    Attributes:
        delta: failure probability of each statement.
        attempt: which attempt on these examples this is, from 1; it is paid for, so that attempts
            1, 2, 3, ... hold all together, at whichever one stops.
        shifted_test: whether the test split has another distribution than the training split.
        class_bounds: bounds for the whole class of the checkpoint.
        held_out: of the checkpoint, by split.
        constants: of the best constant answer to the training split, by split.
        unseen: what was found of the training split among the examples of each split.
        pac_bayes: None where it was not asked for.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> task = get_task("majority", seq_len=10, n_train=100, n_test=200)
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> found = certify_model(model, task, pac_bayes=False)
        >>> found.held_out["test"].examples
        200
    """

    delta: float
    attempt: int
    shifted_test: bool
    class_bounds: ClassCertificates
    held_out: dict[str, HeldOut]
    constants: dict[str, HeldOut]
    unseen: dict[str, Unseen]
    pac_bayes: PacBayes | None = None

    @property
    def statements(self) -> int:
        """How many statements are made, each of which may fail with probability delta."""
        routes = len(self.class_bounds.a_posteriori.log_risk)
        gibbs = 0 if self.pac_bayes is None else 2
        return routes + gibbs + len(self.held_out) + len(self.constants)

    @property
    def notices(self) -> list[str]:
        """What was found of training examples among others, warnings first."""
        found = [own.notice(f"{name} examples") for name, own in self.unseen.items()]
        if self.pac_bayes is not None:
            found.append(self.pac_bayes.sample.notice("examples of the PAC-Bayes bound"))
        return sorted(found, key=lambda text: not text.startswith("WARNING"))

    def distribution(self, name: str) -> str:
        """What a split is drawn from, in words."""
        drawn_from = _DISTRIBUTIONS[name] if self.shifted_test else "the data's distribution"
        return self.less_copies(drawn_from) if self.unseen[name].policy == "drop" else drawn_from

    @staticmethod
    def less_copies(distribution: str) -> str:
        """A distribution in words where copies of the training examples were left out."""
        return f"{distribution} less what copies the training examples"

    def as_dict(self) -> dict[str, Any]:
        """The certification for JSON."""
        pac_bayes = None
        if self.pac_bayes is not None:
            found = self.pac_bayes.certificate
            pac_bayes = {
                "kind": found.kind,
                "error_bound": found.error_bound,
                "sample_error": found.sample_error,
                "sample_error_bound": found.sample_error_bound,
                "kl": found.kl,
                "prior_sigma": found.prior_sigma,
                "examples": found.examples,
                "prior_examples": self.pac_bayes.prior_examples,
                "draws": found.draws,
                "error": self.pac_bayes.error,
                "constant": self.pac_bayes.constant.as_dict(),
                "overlap": self.pac_bayes.sample.as_dict(),
            }
        bounds = self.class_bounds
        return {
            "notices": self.notices,
            "delta": self.delta,
            "attempt": self.attempt,
            "delta_after_attempts": float(paid(self.delta, self.attempt)),
            "statements": self.statements,
            "joint_confidence": max(0.0, 1 - self.statements * self.delta),
            "rounding": rounding(),
            "constants": bounds.a_priori.constants.as_dict(),
            "a_priori": {"is_certificate": False, **_class_fields(bounds.a_priori)},
            "a_posteriori": _class_fields(bounds.a_posteriori),
            "pac_bayes": pac_bayes,
            "held_out": {name: found.as_dict() for name, found in self.held_out.items()},
            "best_constant": {name: found.as_dict() for name, found in self.constants.items()},
            "overlap": {name: found.as_dict() for name, found in self.unseen.items()},
            "verdict": self.verdict(),
        }

    def verdict(self) -> str:
        """What is certified, one sentence per bound, and how far all of it holds together."""
        return " ".join(self.sentences())

    def sentences(self) -> list[str]:
        """The verdict, one bound per entry."""
        says = [text for text in self.notices if text.startswith("WARNING")]
        routes = self.class_bounds.a_posteriori.log_risk
        says.append(
            "For the class that a grid fixed in advance assigns to the trained model, on the "
            f"training distribution: {_routes(routes)}."
        )
        had_been = self.class_bounds.a_priori.log_risk
        says.append(
            "No certificate, as the class was read off the trained model; had it been announced "
            f"before the data: {_routes(had_been)}."
        )
        if self.pac_bayes is not None:
            own = self.pac_bayes.certificate
            weights = "posterior" if own.steps else "prior"
            says.append(
                f"{own.kind} bound, for weights drawn anew from the {weights} at each prediction, "
                f"on the training distribution: error at most {_up(own.error_bound)}."
                + _against(own.error_bound, self.pac_bayes.constant)
            )
        for name, held in self.held_out.items():
            says.append(
                f"Held out, for the checkpoint itself, on {self.distribution(name)}: error "
                f"{held.error:.3f}, at most {_up(held.bound)}."
                + _against(held.bound, self.constants[name])
            )
        joint = max(0.0, 1 - self.statements * self.delta)
        says.append(
            f"Each of these {self.statements} statements holds with probability "
            f"{1 - self.delta:g} on its own, this being attempt {self.attempt} on these examples; "
            f"all together with probability {joint:g}."
        )
        if rounding() == "none":
            says.append(
                "Numbers are approximate, to about ten digits: pip install 'keelback[certify]' to "
                "round them outward."
            )
        return says


def paid(delta: float, attempt: int) -> Fraction:
    """delta / (k (k + 1)) for attempt k: over all k these sum to delta.

    delta is meant as it is written: 0.05 is 1/20.

    Raises:
        InputError: an attempt below 1, or delta outside (0, 1).
    """
    check_confidence(delta)
    if attempt < 1:
        raise InputError(f"attempt = {attempt} must be at least 1")
    return Fraction(str(delta)) / (attempt * (attempt + 1))


_DISTRIBUTIONS = {"test": "the test distribution", "fresh": "the training distribution"}


def certify_model(
    model: nn.Module,
    task: Task,
    *,
    delta: float = 0.05,
    pac_bayes: bool = True,
    attempt: int = 1,
    overlap: Policy = "refuse",
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
        model: a classifier for the task, of an architecture that `read_class` knows.
        task: where its examples come from.
        delta: failure probability of each statement.
        pac_bayes: whether to do (2), which trains a model.
        attempt: which attempt on these examples this is, from 1.
        overlap: what to do where examples that should be unseen are copies of training examples or
            of each other: refuse, drop them, or allow them and say so.
        prior_share: share of the training split that the prior's mean is trained on.
        prior_recipe: how the prior's mean is trained; `Recipe()` by default.
        steps: gradient steps on the PAC-Bayes bound.
        draws: Monte-Carlo draws behind it.
        seed: of the split of the training data, the prior's training and all draws.

    Raises:
        InputError: weights that are not finite, another architecture, copies of training examples
            among those held out, or an argument outside its domain.
        JobError: the prior's training diverged.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> task = get_task("majority", seq_len=10, n_train=100, n_test=200)
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> found = certify_model(model, task, pac_bayes=False)
        >>> found.delta, found.attempt, sorted(found.held_out)
        (0.05, 1, ['fresh', 'test'])
    """
    if not 0 < prior_share < 1:
        raise InputError(f"prior_share = {prior_share:g} must lie strictly between 0 and 1")
    if seed < 0:
        raise InputError(f"seed = {seed} must not be negative")
    share = paid(delta, attempt)
    examples, test = task.train_and_test()
    splits = {"test": test}
    if task.shifted_test:
        splits["fresh"] = task.fresh().split("train")
    tell("looking for copies among the examples")
    found = {
        name: unseen(task, split, examples, f"{name} examples", overlap)
        for name, split in splits.items()
    }
    tell("measuring the class")
    class_bounds = certify_class(model, examples, delta=float(share))
    tell("scoring examples held out")
    label = commonest_label(examples)
    held_out = {name: hold_out(model, own.split, share) for name, own in found.items()}
    constants = {name: hold_out(label, own.split, share) for name, own in found.items()}
    gibbs = None
    if pac_bayes:
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
        cut = round(prior_share * len(examples))
        if not 0 < cut < len(examples):
            raise InputError(f"{len(examples)} examples cannot be split for a prior")
        before, after = take(examples, order[:cut]), take(examples, order[cut:])
        sample = unseen(task, after, before, "examples of the PAC-Bayes bound", overlap)
        prior = _train_prior(model, before, prior_recipe or Recipe(), seed)
        certificate = certify_pac_bayes(
            prior, sample.split, delta=share, steps=steps, draws=draws, seed=seed
        )
        tell("testing the posterior")
        error = {
            name: float(
                sum(
                    gibbs_errors(
                        prior, certificate.posterior, own.split, _TEST_DRAWS, seed,
                        _EXAMPLES_A_TEST_DRAW,
                    )
                )
                / _TEST_DRAWS
            )
            for name, own in found.items()
        }  # fmt: skip
        constant = hold_out(commonest_label(before), sample.split, share)
        gibbs = PacBayes(certificate, cut, error, constant, sample)
    return Certification(
        delta=delta,
        attempt=attempt,
        shifted_test=task.shifted_test,
        class_bounds=class_bounds,
        held_out=held_out,
        constants=constants,
        unseen=found,
        pac_bayes=gibbs,
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
            route: {"log10": log10_up(log), "vacuous": log >= 0}
            for route, log in found.log_risk.items()
        },
    }


def log10_up(log: float) -> float:
    """A natural logarithm as one to base 10, rounded up."""
    log10 = log / math.log(10)
    return log10 + 4 * math.ulp(log10) if log else 0.0


def log10_shown(log: float) -> str:
    """`log10_up` with four digits after the point, rounded up."""
    found = log10_up(log)
    return _up(found, "0.0001") if math.isfinite(found) else str(found)


def _routes(log_risk: dict[str, float]) -> str:
    return ", ".join(f"{route} {_worth(log)}" for route, log in log_risk.items())


def _worth(log: float) -> str:
    if log < 0:
        return f"error at most {_up(math.exp(log) * (1 + 1e-12))}"
    if log == 0:
        return "vacuous (1)"
    orders = log / math.log(10)
    shown = f"{orders:.1f}" if orders < _MOST_IN_FULL else f"{orders:.3g}"
    return f"vacuous by {shown} orders of magnitude"


def _up(bound: float, place: str = "0.001") -> str:
    """A bound with three digits after the point, or to another place, rounded up.

    A bound far beyond that has four digits in all.
    """
    exact = Decimal(bound)
    if abs(exact) >= _MOST_IN_FULL:
        return f"{Context(prec=4, rounding=ROUND_CEILING).plus(exact):g}"
    return str(exact.quantize(Decimal(place), rounding=ROUND_CEILING))


_MOST_IN_FULL = 10**15
"""Numbers from here on are written with an exponent."""


def _against(bound: float, constant: HeldOut) -> str:
    """How a bound compares with always giving one answer."""
    answer = f"always answering {constant.label}, certified at most {_up(constant.bound)}"
    if bound < constant.bound:
        return f" For comparison, {answer}."
    return f" That is no better than {answer}."
