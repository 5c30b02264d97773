"""What the class bounds say about one trained model, as announced in advance and as read off."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.bounds import AnyConstants, has_flint, outward
from keelback.bounds._grid import ClassGrid
from keelback.bounds._numbers import log
from keelback.bounds._risk import covering_risk
from keelback.bounds._summary import BoundSummary, summarise
from keelback.certify._measure import logits, margins, ramp_risk
from keelback.certify._read_class import read_class
from keelback.data import Split
from keelback.models import ModelConfig

_MARGIN_QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
_NO_MARGIN = 1.0
_ROUNDING_OF_A_MEAN = 1e-12


@dataclass(frozen=True)
class ClassCertificate:
    """Bounds on the true error of a trained model that hold for its whole class.

    Attributes:
        constants: the class.
        margin: ramp width.
        delta: failure probability available to this class.
        sample_risk: empirical ramp risk at the margin, on the training split, rounded up; of the
            model with real numbers for floats (docs/studies/bounds.md, Floats and reals).
        summary: every bound of the class.
        log_risk: logarithms of upper bounds on the true error, by route: sharpened, covering (never
            above 0). The published theorem has fixed tokens, and here the embedding is trained.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_train=100).split("train")
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> one = certify_class(model, split).a_posteriori
        >>> one.constants.T, 0 <= one.sample_risk <= 1
        (10, True)
    """

    constants: AnyConstants
    margin: float
    delta: float
    sample_risk: float
    summary: BoundSummary
    log_risk: dict[str, float]


@dataclass(frozen=True)
class ClassCertificates:
    """The same bounds twice.

    Attributes:
        a_priori: for the measured class and margin. No certificate: it would be one, had both been
            announced before the data were seen, but they were read off the trained model.
        a_posteriori: for the enclosing class of a grid that was fixed before the data; valid
            however the model was trained.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_train=100).split("train")
        >>> both = certify_class(SelectiveSSMConfig(vocab_size=2, d_model=4).build(), split)
        >>> both.a_priori.constants.m, both.a_posteriori.constants.m
        (100, 100)
    """

    a_priori: ClassCertificate
    a_posteriori: ClassCertificate


def certify_class(
    model: nn.Module, train: Split, *, delta: float = 0.05, grid: ClassGrid | None = None
) -> ClassCertificates:
    """Bound the true error of a trained classifier through its class constants.

    The embedding counts as trained. The margin is the one with the smallest a-posteriori covering
    bound among quantiles of the margins on the training split; the grid pays for choosing it.

    Args:
        model: of an architecture that `read_class` knows.
        train: the examples it was trained on.
        delta: failure probability of each certificate.
        grid: the grid of classes; ratio 1.25 and spacing 0.25 by default.

    Raises:
        InputError: another architecture, weights that are not finite, or delta outside (0, 1).

    Source: docs/studies/bounds.md, Theorems 4, 6 and 7, Corollaries 5, 8, 9, 14 and 15.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_train=100).split("train")
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> found = certify_class(model, split, delta=0.05)
        >>> found.a_priori.delta
        0.05
    """
    grid = grid or ClassGrid()
    constants = read_class(model, train.seq_len, len(train))
    on_sample = _margins_in_reals(model, train)
    config: ModelConfig = model.config  # type: ignore[assignment]
    sizes = {"classes": config.n_classes, "vocab_size": config.vocab_size}

    def covering(constants: AnyConstants, margin: float, delta: float) -> float:
        sample_risk = ramp_risk(on_sample, margin)
        return covering_risk(sample_risk, constants, margin=margin, delta=delta, **sizes)

    def certificate(constants: AnyConstants, margin: float, delta: float) -> ClassCertificate:
        sample_risk = min(1.0, ramp_risk(on_sample, margin) + _ROUNDING_OF_A_MEAN)
        if has_flint():
            summary = outward.summarise(constants, margin=margin, delta=delta, **sizes)
            log_risk = outward.log_class_risks(
                sample_risk, constants, summary, vocab_size=sizes["vocab_size"]
            )
        else:
            summary = summarise(constants, margin=margin, delta=delta, **sizes)
            log_risk = {
                route: float(np.logaddexp(log(sample_risk), summary.log_risk[route]))
                for route in summary.log_risk
                if route not in ("covering", "published")
            }
            log_risk["covering"] = math.log(
                covering_risk(sample_risk, constants, margin=margin, delta=delta, **sizes)
            )
        return ClassCertificate(constants, margin, delta, sample_risk, summary, log_risk)

    def outer_class(margin: float) -> tuple[AnyConstants, float, float]:
        enclosure = grid.enclose(constants, margin)
        assert enclosure.margin is not None
        return enclosure.constants, enclosure.margin, enclosure.share(delta)

    margin = min(_candidate_margins(on_sample), key=lambda margin: covering(*outer_class(margin)))
    return ClassCertificates(
        a_priori=certificate(constants, margin, delta),
        a_posteriori=certificate(*outer_class(margin)),
    )


def _margins_in_reals(model: nn.Module, split: Split) -> Float[Tensor, " examples"]:
    """Margins that the model has with real numbers for floats, none too large.

    The bounds speak of a map on reals. The model is run once more in float64, and the largest
    difference that float32 makes to a logit is taken off every margin twice: the float64 margins
    are off by far less.
    """
    wide = copy.deepcopy(model).double()
    narrow, exact = logits(model, split).double(), logits(wide, split)
    difference = (narrow - exact).abs().nan_to_num(nan=math.inf).max()
    return margins(exact, split.labels) - 2 * difference


def _candidate_margins(on_sample: torch.Tensor) -> list[float]:
    positive = on_sample[on_sample > 0].double()
    if len(positive) == 0:
        return [_NO_MARGIN]
    at = torch.tensor(_MARGIN_QUANTILES, dtype=torch.float64)
    return sorted(set(torch.quantile(positive, at).tolist()))
