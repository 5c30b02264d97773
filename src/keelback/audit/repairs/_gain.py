"""What a repair gains and what it costs, token by token, with intervals."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

_BLOCK = 64
_RESAMPLES = 1000
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Change:
    """Mean change of the loss over some tokens, in nats per token, and its 95 % interval.

    From a bootstrap over blocks of 64 neighbouring tokens, which are not independent one by one.
    Below 0 the loss fell.

    Examples:
        >>> change = Change(mean=-0.12, low=-0.15, high=-0.09)
        >>> change.high < 0  # the whole interval is a gain
        True
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} nats (95 % interval {self.low:+.4f} to {self.high:+.4f})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def change_of_loss(
    before: Float[np.ndarray, "sequences tokens"],
    after: Float[np.ndarray, "sequences tokens"],
    seed: int = 0,
) -> Change:
    """How the loss changed from `before` to `after`, which are of the same tokens.

    Losses that were not finite and now are count as an infinite fall, the other way round as an
    infinite rise.
    """
    if not np.isfinite(after).all():
        return Change(*[float("inf")] * 3)
    if not np.isfinite(before).all():
        return Change(*[float("-inf")] * 3)
    means, sizes = _blocks(after - before)
    draws = np.random.default_rng(seed).integers(0, sizes.size, (_RESAMPLES, sizes.size))
    drawn = (means[draws] * sizes[draws]).sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(drawn, _INTERVAL)
    return Change(float((means * sizes).sum() / sizes.sum()), float(low), float(high))


def _blocks(
    change: Float[np.ndarray, "sequences tokens"],
) -> tuple[Float[np.ndarray, " blocks"], Float[np.ndarray, " blocks"]]:
    starts = np.arange(0, change.shape[1], _BLOCK)
    sizes = np.diff([*starts, change.shape[1]]).astype(float)
    means = np.add.reduceat(change, starts, axis=1) / sizes
    return means.ravel(), np.tile(sizes, change.shape[0])
