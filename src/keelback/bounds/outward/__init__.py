"""The bounds again, each rounded outward: an upper bound is never below the exact number.

Everything is evaluated in ball arithmetic (python-flint, the extra `certify`), and each function
gives the outer end of its ball as a double. The functions of `keelback.bounds` work in doubles,
are fast, and are approximate: right to about ten digits, now and then from the wrong side.
"""

from keelback.bounds.outward._classes import (
    covering_cover,
    covering_risk,
    linear_attention_log_rademacher,
    log_covering_gap,
    log_output_bound,
    log_rademacher,
    log_risk_gap,
    lower_log_rademacher,
    lti_log_rademacher,
    published_log_rademacher,
    rnn_log_rademacher,
    sharpened_log_rademacher,
    softmax_attention_log_rademacher,
    step_sums,
)
from keelback.bounds.outward._doubles import times
from keelback.bounds.outward._inversions import (
    betting_bound,
    clopper_pearson,
    kl_inverse,
    log_inverse,
    martingale_bound,
    monte_carlo_bound,
    pac_bayes_bound,
    test_set_bound,
)
from keelback.bounds.outward._language import (
    betting_martingale_bound,
    document_bound,
    largest_loss,
    occam_confidence,
)
from keelback.bounds.outward._summary import log_class_risks, summarise

__all__ = [
    "betting_bound",
    "betting_martingale_bound",
    "clopper_pearson",
    "covering_cover",
    "covering_risk",
    "document_bound",
    "kl_inverse",
    "largest_loss",
    "linear_attention_log_rademacher",
    "log_class_risks",
    "log_covering_gap",
    "log_inverse",
    "log_output_bound",
    "log_rademacher",
    "log_risk_gap",
    "lower_log_rademacher",
    "lti_log_rademacher",
    "martingale_bound",
    "monte_carlo_bound",
    "occam_confidence",
    "pac_bayes_bound",
    "published_log_rademacher",
    "rnn_log_rademacher",
    "sharpened_log_rademacher",
    "softmax_attention_log_rademacher",
    "step_sums",
    "summarise",
    "test_set_bound",
    "times",
]
