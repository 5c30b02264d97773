"""An audit as an `Outcome`: what the page of `keelback audit --out DIR` shows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keelback.audit import AuditResult, Finding, LayerMeasures
from keelback.outcome import (
    Bars,
    Claim,
    Column,
    Figure,
    Heatmap,
    Line,
    Mark,
    Outcome,
    Panel,
    Scalar,
    Table,
)

if TYPE_CHECKING:
    import polars as pl

MAPS_SHOWN = 4
LINES_SHOWN = 8
_HOLDS = {"good": True, "problem": False}


def audit_outcome(result: AuditResult) -> Outcome:
    """Everything that an audit found, as figures, tables and claims."""
    span = result.span
    figures = [_losses(result)] if result.losses else []
    if result.measures:
        figures += [_memory(result), _states(result), _steps(result), _reach(result)]
        figures += _maps(result)
    if result.token_names and result.measures:
        figures.append(_gate_types(result))
    return Outcome(
        experiment="audit",
        title=f"Audit of {result.model}",
        summary=(
            f"{len(result.measures)} of {_counted(len(result.found), 'state-space layer')} read, "
            f"{_counted(result.sequences, 'sequence')} of {span.length} tokens; "
            f"training length {span.train_length} ({result.train_length_source})."
        ),
        verdict=result.verdict,
        claims_title="Findings",
        claims=[
            Claim(
                finding.statement,
                finding.severity,
                _measured(finding),
                _HOLDS.get(finding.severity),
            )
            for finding in result.findings
        ],
        figures=figures,
        tables=[
            *([_layer_table(result)] if result.measures else []),
            *([_missed_table(result)] if result.not_audited else []),
            *([_token_table(result)] if result.token_names else []),
            _precision_table(result),
        ],
        notes=[
            "A horizon is the number of tokens in which a state falls to 1/e at the text's mean "
            "step size if nothing is written.",
            "Attention is the attention view of the recurrence: the weight of each earlier input "
            "in an output.",
        ],
        numbers=result.to_json(),
    )


def _measured(finding: Finding) -> str:
    """The evidence, and what was measured and held against what."""
    if not finding.measure or not math.isfinite(finding.value):
        return finding.evidence
    limit = "" if finding.threshold is None else f"; threshold {finding.threshold:.4g}"
    return f"{finding.evidence} [{finding.measure}: {finding.value:.4g}{limit}]"


def _losses(result: AuditResult) -> Figure:
    x = [(loss.start + loss.stop - 1) / 2 for loss in result.losses]
    lines = [
        Line(
            x,
            _plain(loss.loss for loss in result.losses),
            "everything before it",
            _plain(loss.low for loss in result.losses),
            _plain(loss.high for loss in result.losses),
        ),
        Line(
            x,
            _plain(loss.restarted for loss in result.losses),
            "at most the training length",
            style="dashed",
        ),
    ]
    marks = [_training(result)]
    if result.degradation is not None and result.degradation.onset is not None:
        marks.append(Mark(result.degradation.onset, "degrades"))
    return Figure(
        "loss_by_position",
        "Loss by position",
        [Panel("position", "loss, nats per token", lines=lines, log_x=True, marks=marks)],
        "Each token is scored twice: with everything before it, and, beyond the training length, "
        "with the model restarted so that it sees no more than training did. Bands are two "
        "standard errors.",
    )


def _memory(result: AuditResult) -> Figure:
    layers = [measures.layer.index for measures in result.measures]
    horizons = [measures.longest_horizon for measures in result.measures]
    lines = [
        Line(layers, _plain(_order(h.tolist(), share) for h in horizons), name, style=style)
        for share, name, style in (
            (0.1, "10 % of channels", "dotted"),
            (0.5, "median channel", "solid"),
            (0.9, "90 % of channels", "dashed"),
        )
    ]
    mark = Mark(result.span.train_length, "training length", axis="y")
    return Figure(
        "memory_horizon",
        "How long channels remember",
        [Panel("layer", "horizon, tokens", lines=lines, log_y=True, marks=[mark])],
    )


def _states(result: AuditResult) -> Figure:
    frame = result.states
    lines = [
        Line(
            [p + 1 for p in own["position"].to_list()],
            _plain(own["median"].to_list()),
            f"layer {index}",
        )
        for index in (measures.layer.index for measures in _shown(result))
        for own in [_of_layer(frame, index)]
    ]
    panel = Panel(
        "position",
        "median state norm",
        lines=lines,
        log_x=True,
        log_y=True,
        marks=[_training(result)],
    )
    return Figure("state_norms", "State norm against position", [panel])


def _steps(result: AuditResult) -> Figure:
    lines = []
    for measures in _shown(result):
        own = _of_layer(result.steps, measures.layer.index)
        lines.append(
            Line(
                [(a + b - 1) / 2 for a, b in zip(own["start"], own["stop"], strict=True)],
                _plain(own["delta"].to_list()),
                f"layer {measures.layer.index}",
            )
        )
    panel = Panel(
        "position",
        "median step size",
        lines=lines,
        log_x=True,
        log_y=True,
        marks=[_training(result)],
    )
    return Figure("step_sizes", "Step size against position", [panel])


def _reach(result: AuditResult) -> Figure:
    panels = []
    for key, label in (("mean_distance", "mean distance"), ("reach90", "reach of 90 %")):
        lines = []
        for measures in _shown(result):
            own = _of_layer(result.attention, measures.layer.index)
            lines.append(
                Line(own["position"].to_list(), own[key].to_list(), f"layer {measures.layer.index}")
            )
        panels.append(Panel("position", f"{label}, tokens", lines=lines, log_x=True))
    return Figure(
        "effective_reach",
        "How far back layers look",
        panels,
        "From the attention view: the mean distance, and the distance that holds 90 %, of the "
        "absolute weights of earlier inputs, averaged over a sample of channels.",
    )


def _maps(result: AuditResult) -> list[Figure]:
    panels = []
    for measures in _evenly(result.measures, MAPS_SHOWN):
        corner = result.attention_maps.get(measures.layer.index)
        if corner is None:
            continue
        positions = list(range(len(corner)))
        heatmap = Heatmap(positions, positions, corner.tolist(), "weight", from_top=True)
        title = f"layer {measures.layer.index}"
        panels.append(Panel("input", "output", title, heatmap=heatmap))
    caption = "Absolute weights between the first tokens; each row sums to one."
    return [Figure("attention_maps", "Effective attention", panels, caption)] if panels else []


def _gate_types(result: AuditResult) -> Figure:
    types = result.gate_types
    bars = Bars(types["type"].to_list(), types["opening"].to_list(), "opening")
    return Figure(
        "gate_by_token_type",
        "Which tokens open the gates",
        [Panel("type of token", "opening, standard deviations", bars=[bars], zero_line=True)],
        "Mean over layers of the binary logarithm of the step size, less the layer's mean, in "
        "standard deviations over tokens.",
    )


def _layer_table(result: AuditResult) -> Table:
    columns = [
        Column("index", "layer"),
        Column("name", "name"),
        Column("kind", "kind"),
        Column("spectral_abscissa", "spectral abscissa", ".3g"),
        Column("delta_median", "step size, median", ".3g"),
        Column("horizon_median", "horizon, median (tokens)", ",.1f"),
        Column("horizon_p99", "horizon, 99th percentile (tokens)", ",.1f"),
        Column("horizon_beyond_train_length", "horizon longer than training", ".1%"),
        Column("state_growth_median", "state growth", ".3g"),
        Column("saturated", "saturated", ".1%"),
        Column("dead", "dead", ".1%"),
        Column("gate_selectivity", "step size explained by the token", ".0%"),
        Column("replay_relative_difference", "replay differs by", ".1g"),
    ]
    keys = [column.key for column in columns]
    rows = [_finite_row(row) for row in result.layers.select(keys).to_dicts()]
    caption = (
        "Medians, percentiles and shares are over a layer's rates. Spectral abscissa: below 0, "
        "every state decays. State growth: state norm beyond the training length, over that of the "
        "same tokens in contexts no longer than in training. Saturated: forgets within a token. "
        "Dead: the state stays at next to nothing. Replay: the layer's own result against that of "
        "its recurrence, run again from what was read, relative to what the state contributes."
    )
    return Table("layers", "Layers", columns, rows, caption)


def _missed_table(result: AuditResult) -> Table:
    columns = [
        Column("what", "what"),
        Column("kind", "class in the code"),
        Column("count", "count"),
        Column("reason", "why it was not audited"),
    ]
    return Table("not_audited", "Not audited", columns, [vars(own) for own in result.not_audited])


def _token_table(result: AuditResult) -> Table:
    columns = [
        Column("token", "token"),
        Column("type", "type"),
        Column("count", "count"),
        Column("opening", "opening", "+.2f"),
    ]
    rows = [row for row in result.gates.to_dicts() if row["count"] > 1]
    return Table(
        "gates",
        "Tokens that open and close the gates",
        columns,
        [*rows[:10], *rows[10:][-10:]],
        "The ten widest and the ten narrowest, of those that occur more than once. Opening: step "
        "size on the token, as its binary logarithm in standard deviations from the mean.",
    )


def _precision_table(result: AuditResult) -> Table:
    columns = [
        Column("precision", "kept in"),
        Column("largest_change", "largest change", ".2g"),
        Column("divergence", "divergence, nats", ".2g"),
        Column("agreement", "same top token", ".1%"),
        Column("headroom", "headroom", ".3g"),
        Column("overflow_module", "first overflow"),
    ]
    rows = [_finite_row(effect.to_json()) for effect in result.precision]
    caption = (
        "Changes are against the model's own precision. Divergence: between the predictions, per "
        "token. Headroom: the type's largest value over the largest activation."
    )
    return Table("precision", "Half precision", columns, rows, caption)


def _training(result: AuditResult) -> Mark:
    return Mark(result.span.train_length, "training length")


def _shown(result: AuditResult) -> Sequence[LayerMeasures]:
    return _evenly(result.measures, LINES_SHOWN)


def _evenly(items: Sequence[LayerMeasures], most: int) -> Sequence[LayerMeasures]:
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _of_layer(frame: "pl.DataFrame", layer: int) -> "pl.DataFrame":
    return frame.filter(frame["layer"] == layer)


def _order(values: list[float], share: float) -> float:
    """An order statistic; unlike an interpolated quantile it takes infinite values."""
    return sorted(values)[round(share * (len(values) - 1))]


def _plain(values: Iterable[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _finite_row(row: Mapping[str, Any]) -> dict[str, Scalar]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
