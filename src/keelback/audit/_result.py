"""What an audit found, as data: data frames, JSON, Parquet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from keelback.audit._collect import NotAudited, share_read
from keelback.audit._degradation import Degradation
from keelback.audit._findings import Finding
from keelback.audit._gates import TokenName, gate_table, gate_types
from keelback.audit._json import finite
from keelback.audit._layers import Layer
from keelback.audit._measures import LayerMeasures
from keelback.audit._precision import PrecisionEffect
from keelback.audit._spans import Span
from keelback.audit._verdict import findings, in_words
from keelback.files import write_atomically, write_table

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class PositionLoss:
    """Losses of the tokens at positions `start` to `stop - 1`, in nats.

    `loss` is with everything before the token as context; `restarted` is of the same tokens in a
    context no longer than training's. `low` and `high` bound `loss` by two standard errors.

    Examples:
        >>> block = PositionLoss(512, 640, tokens=512, loss=2.4, low=2.3, high=2.5, restarted=2.1)
        >>> block.stop - block.start  # positions that the mean is over
        128
    """

    start: int
    stop: int
    tokens: int
    loss: float
    low: float
    high: float
    restarted: float


def losses_by_position(
    losses: Float[Tensor, "sequences positions"],
    restarted: Float[Tensor, "sequences beyond"] | None,
    span: Span,
    first: int,
) -> list[PositionLoss]:
    """One entry per bin of positions; `losses[:, i]` is of position `first + i`."""
    rows = []
    for bin_ in span.bins():
        start = max(bin_.start, first)
        own = losses[:, start - first : bin_.stop - first].flatten()
        if start >= bin_.stop or not len(own):
            continue
        error = 2 * float(own.std()) / len(own) ** 0.5 if len(own) > 1 else float("inf")
        alone = float("nan")
        if restarted is not None and start >= span.beyond.start:
            shifted = slice(start - span.beyond.start, bin_.stop - span.beyond.start)
            alone = float(restarted[:, shifted].mean())
        mean = float(own.mean())
        rows.append(
            PositionLoss(start, bin_.stop, len(own), mean, mean - error, mean + error, alone)
        )
    return rows


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        model: its name.
        span: length of the sequences and training length.
        train_length_source: "given", "configuration" or "assumed".
        sequences: how many sequences were run.
        found: every state-space layer (each direction of it), read or not.
        measures: per layer that was read, with the statistics behind them.
        losses: by position; empty for a model that does not predict tokens.
        degradation: of the loss beyond the training length; `None` where it was not tested.
        precision: effects of half precision.
        not_audited: layers that were not read, and why; other layers that mix tokens, by class.
        token_names: of each of the text's different tokens.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
        >>> result = audit(model, tokens=torch.randint(40, (400,)), train_length=40)
        >>> result.span.length, len(result.measures), bool(result.verdict)
        (400, 1, True)
    """

    model: str
    span: Span
    train_length_source: str
    sequences: int
    found: Sequence[Layer]
    measures: Sequence[LayerMeasures]
    losses: Sequence[PositionLoss]
    degradation: Degradation | None
    precision: Sequence[PrecisionEffect]
    not_audited: Sequence[NotAudited]
    token_names: Sequence[TokenName]
    why_no_losses: str | None = None

    @cached_property
    def findings(self) -> list[Finding]:
        """Everything worth saying, what hurts first."""
        return findings(
            self.measures,
            self.found,
            self.span,
            self.degradation,
            self.why_no_losses,
            self.precision,
            self.not_audited,
        )

    @property
    def share_read(self) -> float:
        """Of the parameters of all state-space layers, the share that lies in those read."""
        return share_read(self.measures, self.found)

    @property
    def verdict(self) -> str:
        """The findings in a few sentences."""
        return in_words(self.findings)

    @cached_property
    def layers(self) -> "pl.DataFrame":
        """One row per layer that was read; nested measures as `group_name` columns."""
        return _frame([_flat(m.to_json()) for m in self.measures])

    @cached_property
    def channels(self) -> "pl.DataFrame":
        """One row per rate of a layer."""
        import polars as pl

        if not self.measures:
            return pl.DataFrame()
        return pl.concat([pl.DataFrame(measures.channels()) for measures in self.measures])

    @cached_property
    def loss_by_position(self) -> "pl.DataFrame":
        """One row per bin of positions."""
        return _frame([vars(loss) for loss in self.losses])

    @cached_property
    def states(self) -> "pl.DataFrame":
        """Quantiles over rates of the state norm, one row per layer and sampled position."""
        rows = []
        for measures in self.measures:
            norms = measures.statistics.state_mean()
            for position, row in zip(measures.statistics.positions, norms, strict=True):
                low, median, high = np.quantile(row.numpy(), (0.1, 0.5, 0.9))
                rows.append(
                    {
                        "layer": measures.layer.index,
                        "position": position,
                        "p10": float(low),
                        "median": float(median),
                        "p90": float(high),
                        "max": float(row.max()),
                    }
                )
        return _frame(rows)

    @cached_property
    def steps(self) -> "pl.DataFrame":
        """Median over rates of the mean step size, one row per layer and bin of positions."""
        return _frame(
            [
                {
                    "layer": measures.layer.index,
                    "start": bin_.start,
                    "stop": bin_.stop,
                    "delta": float(measures.statistics.step_mean(bin_).median()),
                }
                for measures in self.measures
                for bin_ in self.span.bins()
            ]
        )

    @cached_property
    def attention(self) -> "pl.DataFrame":
        """How far back each layer looks from each of a few positions, in tokens."""
        return _frame(
            [
                {
                    "layer": measures.layer.index,
                    "position": position,
                    "mean_distance": distance,
                    "reach90": reach,
                }
                for measures in self.measures
                for position, distance, reach in measures.statistics.reach.means()
            ]
        )

    @property
    def attention_maps(self) -> dict[int, Float[np.ndarray, "query key"]]:
        """Absolute attention between the first tokens, rows summing to one, by layer."""
        return {
            measures.layer.index: measures.statistics.reach.map.numpy()
            for measures in self.measures
            if measures.statistics.reach.map is not None
        }

    @cached_property
    def gates(self) -> "pl.DataFrame":
        """How far gates open at each token, in standard deviations, averaged over layers."""
        return _frame(gate_table(self.measures, self.token_names))

    @cached_property
    def gate_types(self) -> "pl.DataFrame":
        """The same by type of token."""
        return _frame(gate_types(self.gates.to_dicts()))

    def to_json(self) -> dict[str, Any]:
        """Plain values; `None` stands for what is infinite or cannot be told."""
        opening = [row for row in self.gates.to_dicts() if row["count"] > 1]
        proofs = [own.replay.difference for own in self.measures]
        result = {
            "model": self.model,
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "length": self.span.length,
            "train_length": self.span.train_length,
            "train_length_source": self.train_length_source,
            "sequences": self.sequences,
            "coverage": {
                "layers_found": len(self.found),
                "layers_read": len(self.measures),
                "share_of_their_parameters": self.share_read,
                "replay_difference": max(proofs, default=float("nan")),
            },
            "layers": [measures.to_json() for measures in self.measures],
            "loss_by_position": [vars(loss) for loss in self.losses],
            "degradation": None if self.degradation is None else self.degradation.to_json(),
            "gates": {
                "types": self.gate_types.to_dicts(),
                "widest": opening[:10],
                "narrowest": opening[-10:][::-1],
            },
            "precision": [effect.to_json() for effect in self.precision],
            "not_audited": [vars(missed) for missed in self.not_audited],
        }
        plain: dict[str, Any] = finite(result)
        return plain

    def write(self, folder: Path) -> None:
        """Write `audit.json` and a Parquet file per data frame into `folder`, each in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*_FRAMES, "gate_types"):
            frame: pl.DataFrame = getattr(self, name)
            if frame.width:
                write_table(folder / f"{name}.parquet", frame)
        text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        write_atomically(folder / "audit.json", text)


_FRAMES = ("layers", "channels", "states", "steps", "attention", "gates", "loss_by_position")


def _frame(rows: list[dict[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(rows, infer_schema_length=None)


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= (
            _flat(value, f"{prefix}{key}_") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat
