"""The three sums over steps that decide how a selective SSM's output depends on its length."""

from dataclasses import dataclass

from keelback.bounds._numbers import Real, exp, log, log_of, logaddexp, minimum
from keelback.bounds._series import log_geometric_sum, mean_index


@dataclass(frozen=True)
class StepSums:
    """Bounds over all steps 0 < delta_t <= D, t = 1..T, with tau_t = sum_{t < r <= T} delta_r.

    Attributes:
        log_output: log of S1 = max sum_t delta_t e^{s_A tau_t} = D sum_{k < T} e^{s_A D k}, exact.
        log_decaying: log of S2 / S1, S2 >= sum_t delta_t max_a |a| tau_t e^{a tau_t} over
            a <= min(s_A, 0): what a relative change of a decaying state moves.
        log_absolute: log of S3 / S1, S3 >= sum_t delta_t tau_t e^{s_A tau_t}: what an absolute
            change of A moves.
        log_relative: log of (S2 + max(s_A, 0) S3) / S1: what a relative change of the steps
            moves through the exponents.

    Examples:
        >>> import math
        >>> sums = StepSums.of(s_A=-1.0, log_D=0.0, T=2)  # S1 = 1 + 1 / e
        >>> round(math.exp(sums.log_output), 4)
        1.3679
    """

    log_output: Real
    log_decaying: Real
    log_absolute: Real
    log_relative: Real

    @classmethod
    def of(cls, s_A: Real, log_D: Real, T: Real) -> "StepSums":
        """The sums for abscissa `s_A`, largest step e^{log_D} and length `T`.

        Source: docs/studies/bounds.md, Lemmas 1 to 3.
        """
        D = exp(log_D)
        log_output = log_D + log_geometric_sum(s_A * D, T)
        log_decaying = log_D - 1 + log(T - 1)
        if s_A < 0:
            log_decaying = minimum(log_decaying, log(-3 / s_A + D) - 1) - log_output
            log_short = 2 * log_D + log(T) + log(T - 1) - log_of(2, s_A)
            log_settled = logaddexp(-2 * log(-s_A), log_D - log(-s_A) - 1)
            log_absolute = minimum(log_short, log_settled) - log_output
            return cls(log_output, log_decaying, log_absolute, log_decaying)
        log_absolute = log_D + log(mean_index(s_A * D, T))
        log_decaying -= log_output
        log_relative = logaddexp(log_decaying, log(s_A) + log_absolute)
        return cls(log_output, log_decaying, log_absolute, log_relative)
