"""From losses by position to the length at which a model stops holding, with an interval."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from keelback.audit._spans import Span

TOLERANCE = 0.02
"""Share of the loss at the training length by which the loss must rise to count."""

_BLOCK = 64
_RESAMPLES = 400
_INTERVAL = (0.025, 0.975)
_CANDIDATES = 48


@dataclass(frozen=True)
class Degradation:
    """How the loss beyond the training length compares with the loss at it.

    Losses are in nats a token. Intervals are of 95 %, from a bootstrap over blocks of tokens.

    Attributes:
        reference_loss: mean loss of the tokens in the longest octave of positions (or in all there
            are beyond the training length), in contexts of half to all of the training length.
        excess: mean rise over it of the loss of the same tokens with the full context.
        degrades: the rise is more than `TOLERANCE` of the reference, and not by chance.
        onset: where the rise begins, the corner of a broken line in the logarithm of the
            position; `None` where the loss does not degrade.

    Examples:
        >>> found = Degradation(2.0, 0.3, (0.2, 0.4), degrades=True, onset=900.0)
        >>> found.relative_excess
        0.15
    """

    reference_loss: float
    excess: float
    excess_interval: tuple[float, float]
    degrades: bool
    onset: float | None = None
    onset_interval: tuple[float, float] | None = None

    @property
    def relative_excess(self) -> float:
        """`excess` as a share of `reference_loss`."""
        return self.excess / self.reference_loss

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "relative_excess": self.relative_excess}


def degradation(
    full: Float[np.ndarray, "sequences beyond"],
    restarted: Float[np.ndarray, "sequences beyond"],
    span: Span,
    seed: int = 0,
) -> Degradation:
    """Compare losses with the full context with losses in a context that training knew.

    Token by token, so that how hard the text is cancels out.

    Args:
        full: losses of the tokens beyond the training length, given everything before them.
        restarted: losses of the same tokens, the model having started anew shortly before.
        span: which positions these are.
        seed: of the bootstrap.
    """
    excess = full - restarted
    late_from = min(max(span.beyond.start, span.length // 2), span.length - 1)
    reference = float(restarted[:, late_from - span.beyond.start :].mean())
    finite = np.isfinite(excess).all(axis=0)
    if not finite.all():
        first = float(span.beyond.start + int(np.argmin(finite)))
        nothing = (float("inf"), float("inf"))
        return Degradation(reference, float("inf"), nothing, True, first, (first, first))
    blocks = _Blocks.of(excess, span.beyond.start, late_from)
    draws = np.random.default_rng(seed).integers(
        0, blocks.size.size, (_RESAMPLES, blocks.size.size)
    )
    low, high = np.quantile([blocks.take(draw).late_mean() for draw in draws], _INTERVAL)
    mean = blocks.late_mean()
    interval = (float(low), float(high))
    if not (mean > TOLERANCE * reference and low > 0):
        return Degradation(reference, mean, interval, degrades=False)
    low, high = np.quantile([blocks.take(draw).corner() for draw in draws], _INTERVAL)
    return Degradation(reference, mean, interval, True, blocks.corner(), (float(low), float(high)))


@dataclass(frozen=True)
class _Blocks:
    """Mean excess of runs of neighbouring tokens, which are not independent one by one."""

    excess: Float[np.ndarray, " blocks"]
    size: Float[np.ndarray, " blocks"]
    centre: Float[np.ndarray, " blocks"]
    late_from: float

    @classmethod
    def of(
        cls, excess: Float[np.ndarray, "sequences beyond"], first: int, late_from: int
    ) -> "_Blocks":
        sequences, beyond = excess.shape
        edges = np.arange(late_from - first, -1, -_BLOCK)[::-1]
        starts = np.unique([0, *edges, *np.arange(late_from - first, beyond, _BLOCK)])
        sizes = np.diff([*starts, beyond])
        means = np.add.reduceat(excess, starts, axis=1) / sizes
        centres = first + starts + (sizes - 1) / 2
        return cls(
            means.ravel(),
            np.tile(sizes, sequences).astype(float),
            np.tile(centres, sequences),
            float(late_from),
        )

    def take(self, chosen: Int[np.ndarray, " draw"]) -> "_Blocks":
        return _Blocks(self.excess[chosen], self.size[chosen], self.centre[chosen], self.late_from)

    def late_mean(self) -> float:
        late = self.centre >= self.late_from
        return float(np.average(self.excess[late], weights=self.size[late])) if late.any() else 0.0

    def corner(self) -> float:
        """Position t0 of the least-squares fit of `slope * max(0, log(t / t0))`, slope > 0."""
        best, corner = -1.0, float(self.centre.min())
        for candidate in np.geomspace(self.centre.min(), self.centre.max(), _CANDIDATES):
            rise = np.maximum(0.0, np.log(self.centre / candidate)) * self.size
            norm = float((rise * rise / self.size).sum())
            along = float((rise * self.excess).sum())
            explained = along * along / norm if norm > 0 and along > 0 else 0.0
            if explained > best:
                best, corner = explained, float(candidate)
        return corner
