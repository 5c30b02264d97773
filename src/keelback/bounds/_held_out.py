"""The bound that needs no theory of the model: errors counted on examples it has not seen."""

from keelback.bounds._risk import check_confidence
from keelback.errors import InputError


def clopper_pearson(errors: int, examples: int, delta: float) -> float:
    """Upper confidence bound on an error rate from errors among independent examples.

    The largest p with P(Binomial(n, p) <= errors) >= delta, in doubles: approximate, to about ten
    digits; `keelback.bounds.outward.clopper_pearson` is never below it. It holds for one classifier
    that was fixed before these examples were looked at.

    Args:
        errors: how many of the examples were labelled wrong.
        examples: how many there were.
        delta: failure probability.

    Raises:
        InputError: no example, more errors than examples, or delta outside (0, 1).

    Source: Clopper and Pearson, Biometrika 1934; Langford, JMLR 2005, for test set bounds.

    Examples:
        >>> round(clopper_pearson(errors=5, examples=1000, delta=0.05), 5)
        0.01048
    """
    check_confidence(delta)
    if not 0 <= errors <= examples or examples < 1:
        raise InputError(f"{errors} errors among {examples} examples is not possible")
    if errors == examples:
        return 1.0
    from scipy.special import betainccinv  # Here: it takes as long to import as all the rest.

    return float(betainccinv(errors + 1, examples - errors, delta))
