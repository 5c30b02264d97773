"""The best that a rule on the number of ones can do on Majority, exactly."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CountRule:
    """The rule that is right most often on the training split's distribution, and how often.

    `noisy_accuracy` is its accuracy there, which no model exceeds in expectation;
    `clean_accuracy` is the same rule's accuracy on the clean test distribution.

    Examples:
        >>> rule = best_count_rule(seq_len=50, flip_probability=0.2)
        >>> rule.noisy_accuracy < 1
        True
    """

    noisy_accuracy: float
    clean_accuracy: float


def best_count_rule(seq_len: int, flip_probability: float = 0.25) -> CountRule:
    """The Bayes rule of the noisy Majority task, and how it fares without the noise.

    A string has k ones, k uniform on {0, ..., T}, and label [k > T/2]; in training each one
    survives with probability 1 - `flip_probability`, so the count that is seen is binomial. The
    places of the ones carry no information. As T grows the rule tends to the threshold
    (1 - `flip_probability`) T / 2: nothing is lost on noisy strings, and on clean ones the
    strings between the threshold and T / 2, a share of `flip_probability` / 2, are mislabelled.

    Examples:
        >>> rule = best_count_rule(seq_len=50)
        >>> round(rule.noisy_accuracy, 3), round(rule.clean_accuracy, 3)
        (0.954, 0.882)
    """
    from scipy.stats import binom  # takes half a second to import, which few need

    counts = np.arange(seq_len + 1)
    label = counts > seq_len / 2
    seen = binom.pmf(counts[None, :], counts[:, None], 1 - flip_probability) / (seq_len + 1)
    positive, negative = seen[label].sum(0), seen[~label].sum(0)
    rule = positive > negative
    return CountRule(
        noisy_accuracy=float(np.maximum(positive, negative).sum()),
        clean_accuracy=float((rule == label).mean()),
    )
