"""Generalisation bounds of selective SSMs, from class constants alone.

Everything is computed in log space: functions named `log_*` or `*_log_*` return natural
logarithms, because the numbers themselves overflow a double for long or unstable classes.
"""

from keelback._moved import moved
from keelback.bounds._chaining import (
    CoveredClass,
    best_chain,
    chaining_radii,
    dudley_integral,
    log_dudley_of_capacity,
    nested_chaining,
)
from keelback.bounds._code_length import code_length, largest_loss, occam_confidence
from keelback.bounds._companions import (
    linear_attention_log_rademacher,
    lti_log_rademacher,
    rnn_log_rademacher,
    softmax_attention_log_rademacher,
)
from keelback.bounds._constants import ClassConstants
from keelback.bounds._covered import AnyConstants, StackConstants, covered_class
from keelback.bounds._covering import (
    Ball,
    Intervals,
    cheapest_log_count,
    class_log_count,
    interval_log_count,
    log_maurey_capacity,
    maurey_log_count,
    volume_log_count,
)
from keelback.bounds._documents import document_bound
from keelback.bounds._grid import ClassGrid, Enclosure, level_weight
from keelback.bounds._held_out import clopper_pearson
from keelback.bounds._lower import log_mean_absolute_sign_sum, lower_log_rademacher
from keelback.bounds._mamba_block import (
    MambaBlockConstants,
    log_mamba_output_bound,
    mamba_blocks,
    mamba_log_rademacher,
)
from keelback.bounds._martingale import (
    RATES,
    azuma_excess,
    best_rate,
    betting_mean,
    freedman_excess,
)
from keelback.bounds._numbers import has_flint
from keelback.bounds._pac_bayes import monte_carlo_bound, pac_bayes_bound, test_set_bound
from keelback.bounds._published import (
    PublishedTerms,
    log_step_factor,
    published_log_rademacher,
    published_terms,
)
from keelback.bounds._residual import ResidualConstants
from keelback.bounds._risk import (
    confidence_term,
    covering_risk,
    kl_inverse,
    log_covering_gap,
    log_risk_gap,
    loss_complexity_factor,
)
from keelback.bounds._series import log_geometric_sum, mean_index
from keelback.bounds._sharpened import (
    log_output_bound,
    selective_blocks,
    selective_class,
    sharpened_log_rademacher,
)
from keelback.bounds._stack import stack_layers, stacked_log_rademacher
from keelback.bounds._states import ComplexConstants, DenseConstants
from keelback.bounds._steps import StepSums
from keelback.bounds._summary import BoundSummary, summarise

__all__ = [
    "RATES",
    "AnyConstants",
    "Ball",
    "BoundSummary",
    "ClassConstants",
    "ClassGrid",
    "ComplexConstants",
    "CoveredClass",
    "DenseConstants",
    "Enclosure",
    "Intervals",
    "MambaBlockConstants",
    "PublishedTerms",
    "ResidualConstants",
    "StackConstants",
    "StepSums",
    "azuma_excess",
    "best_chain",
    "best_rate",
    "betting_mean",
    "chaining_radii",
    "cheapest_log_count",
    "class_log_count",
    "clopper_pearson",
    "code_length",
    "confidence_term",
    "covered_class",
    "covering_risk",
    "document_bound",
    "dudley_integral",
    "freedman_excess",
    "has_flint",
    "interval_log_count",
    "kl_inverse",
    "largest_loss",
    "level_weight",
    "linear_attention_log_rademacher",
    "log_covering_gap",
    "log_dudley_of_capacity",
    "log_geometric_sum",
    "log_mamba_output_bound",
    "log_maurey_capacity",
    "log_mean_absolute_sign_sum",
    "log_output_bound",
    "log_risk_gap",
    "log_step_factor",
    "loss_complexity_factor",
    "lower_log_rademacher",
    "lti_log_rademacher",
    "mamba_blocks",
    "mamba_log_rademacher",
    "maurey_log_count",
    "mean_index",
    "monte_carlo_bound",
    "nested_chaining",
    "occam_confidence",
    "pac_bayes_bound",
    "published_log_rademacher",
    "published_terms",
    "rnn_log_rademacher",
    "selective_blocks",
    "selective_class",
    "sharpened_log_rademacher",
    "softmax_attention_log_rademacher",
    "stack_layers",
    "stacked_log_rademacher",
    "summarise",
    "test_set_bound",
    "volume_log_count",
]

__getattr__ = moved(
    __name__,
    dict.fromkeys(
        (
            "ClassCertificate",
            "ClassCertificates",
            "certify_class",
            "logits",
            "margins",
            "measure_constants",
            "ramp_risk",
            "wrong",
            "PRIOR_SIGMAS",
            "GaussianWeights",
            "PacBayesCertificate",
            "bounded_cross_entropy",
            "certify_pac_bayes",
            "gibbs_errors",
        ),
        "keelback.certify",
    ),
)
