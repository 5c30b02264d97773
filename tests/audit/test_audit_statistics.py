"""The streamed statistics against the same numbers taken from whole tensors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keelback.audit._distribution import LogHistogram
from keelback.audit._measures import LayerMeasures, horizon
from keelback.audit._recurrence import SelectiveRecurrence
from keelback.audit._spans import Span
from keelback.audit._statistics import (
    Alignment,
    GateByToken,
    LayerStatistics,
    distance_and_reach,
)


@given(st.integers(2, 5000), st.integers(1, 5000))
def test_bins_partition_the_positions(length: int, train_length: int) -> None:
    span = Span(length, train_length)
    bins = span.bins()
    covered = [position for bin_ in bins for position in range(bin_.start, bin_.stop)]
    assert covered == list(range(length))
    if train_length < length:
        assert train_length in {bin_.start for bin_ in bins}
    assert len(bins) <= 4 * math.log2(length) + 8


@given(st.integers(2, 5000), st.integers(1, 5000))
def test_sampled_positions_are_few_and_name_the_ends(length: int, train_length: int) -> None:
    positions = Span(length, train_length).sampled_positions()
    assert positions == sorted(set(positions))
    assert {length - 1, min(length, train_length) - 1} <= set(positions)
    assert min(positions) >= 0
    assert len(positions) <= 51


@given(st.integers(2, 2000), st.integers(1, 2000))
def test_restarts_score_each_token_beyond_training_once(length: int, train_length: int) -> None:
    span = Span(length, train_length)
    windows = span.restart_windows()
    scored = [position for _, part in windows for position in range(part.start, part.stop)]
    assert scored == list(range(min(length, train_length), length))
    for whole, part in windows:
        assert whole.stop == part.stop
        assert whole.stop - whole.start <= max(2, train_length)
        assert part.start - whole.start >= max(1, train_length // 2)


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=300), st.floats(0, 1))
@example(values=[1.0, 2.0], share=0.5000000149011612)  # In float32 the rank would be 1.
def test_histogram_quantiles_are_close(values: list[float], share: float) -> None:
    histogram = LogHistogram()
    for part in np.array_split(np.array(values), 3):
        histogram.add(torch.tensor(part))
    assert histogram.least == min(values)
    assert histogram.greatest == max(values)
    ordered = sorted(values)
    rank = share * len(values)
    low = ordered[max(0, math.ceil(rank) - 1)]
    high = ordered[min(len(ordered) - 1, math.floor(rank))]
    estimate = histogram.quantile(share)
    assert low * 0.985 <= estimate <= high * 1.015


def test_histogram_of_extreme_values() -> None:
    histogram = LogHistogram()
    histogram.add(torch.tensor([0.0, float("inf"), float("nan"), 1.0]))
    histogram.add(torch.tensor([float("nan")]))
    assert (histogram.least, histogram.greatest) == (0.0, float("inf"))
    assert histogram.quantile(0.5) == pytest.approx(1.0, rel=0.02)
    assert math.isnan(LogHistogram().quantile(0.5))


def test_what_is_not_above_zero_counts_as_the_smallest() -> None:
    histogram = LogHistogram()
    histogram.add(torch.tensor([[-2.0, 0.0, 3.0]]))
    assert (histogram.least, histogram.greatest) == (-2.0, 3.0)
    assert 0 < histogram.quantile(0.4) < 1e-15
    assert histogram.quantile(0.9) == pytest.approx(3.0, rel=0.01)


def test_horizon_is_the_e_folding_time() -> None:
    A = torch.tensor([[-2.0, -0.5], [0.0, 0.25]])
    tokens = horizon(A, torch.tensor([0.1, 0.1]))
    assert tokens[0].tolist() == pytest.approx([5.0, 20.0])
    assert torch.isinf(tokens[1]).all()
    shrunk = torch.exp(torch.tensor(0.1) * A[0]) ** tokens[0]
    assert shrunk.tolist() == pytest.approx([math.exp(-1)] * 2, rel=1e-5)


def recurrence(length: int, seed: int) -> SelectiveRecurrence:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A = -torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return SelectiveRecurrence(
        normal(2, length, 5),
        0.2 * normal(2, length, 5).exp(),
        A,
        normal(2, length, 1, 3),
        normal(2, length, 1, 3),
    )


def test_streamed_sums_equal_those_of_whole_tensors() -> None:
    span = Span(60, 16)
    passes = [recurrence(60, seed) for seed in (1, 2)]
    tokens = torch.randint(0, 7, (2, 2, 60))
    hidden = torch.randn(2, 2, 60, 4)
    features = torch.randn(3, 4)
    statistics = LayerStatistics(passes[0].A, span, 7, features)
    for own, ids, x in zip(passes, tokens, hidden, strict=True):
        statistics.update(own, x, ids)
    delta = torch.cat([p.delta for p in passes])
    for part in (slice(0, 60), span.within, span.beyond):
        expected = delta[:, part].mean((0, 1))
        assert torch.allclose(statistics.step_mean(part), expected)
    assert torch.allclose(statistics.step_least.double(), delta.amin((0, 1)))
    assert torch.allclose(statistics.step_greatest.double(), delta.amax((0, 1)))
    deviation = delta[:, span.within].flatten(0, 1).std(0, unbiased=False)
    assert torch.allclose(statistics.step_deviation_within(), deviation)

    opening = delta.log2().mean(-1).flatten()
    ids = tokens.flatten()
    gates = statistics.gates
    for token in range(7):
        assert float(gates.mean[token]) == pytest.approx(float(opening[ids == token].mean()))
    mean, spread = gates.overall
    assert (mean, spread) == pytest.approx((float(opening.mean()), float(opening.std(False))))

    along = (hidden @ features.T).flatten(0, 2).double()
    correlations = np.corrcoef(along.T.numpy(), opening.numpy())[-1, :3]
    assert statistics.alignment is not None
    assert statistics.alignment.correlation().numpy() == pytest.approx(correlations, rel=1e-5)

    states = whole_states(passes)
    norms = states.square().sum(-1).sqrt().mean(0)[statistics.positions]
    assert torch.allclose(statistics.state_mean(), norms)
    settled = [i for i, p in enumerate(statistics.positions) if p in range(8, 16)]
    measures = LayerMeasures(None, statistics)  # type: ignore[arg-type]
    assert torch.allclose(measures.settled_norm, norms[settled].mean(0))
    assert measures.state_growth.isnan().all()


def test_what_the_length_does_is_told_from_what_the_text_does() -> None:
    """Against the same tokens in windows that begin anew, of whatever size each is."""
    span = Span(60, 16)
    whole = recurrence(60, 1)
    statistics = LayerStatistics(whole.A, span, 7)
    statistics.update(whole, torch.randn(2, 60, 4), torch.zeros(2, 60, dtype=torch.long))
    windows = span.restart_windows()
    norms = torch.full((60, 5), float("nan"), dtype=torch.float64)
    steps = []
    for window, counted in windows:
        start = window.start
        own = SelectiveRecurrence(
            whole.u[:1, window],
            whole.delta[:1, window],
            whole.A,
            whole.B[:1, window],
            whole.C[:1, window],
        )
        statistics.restarted.update(own, [(window, counted)])
        alone = whole_states([own], 1)[0].square().sum(-1).sqrt()
        norms[counted] = alone[counted.start - start : counted.stop - start]
        steps.append(own.delta[0, counted.start - start : counted.stop - start])
    beyond = [p for p in statistics.positions if p >= 16]
    measures = LayerMeasures(None, statistics)  # type: ignore[arg-type]
    with_length = whole_states([whole])[:, beyond].square().sum(-1).sqrt().mean(0).mean(0)
    assert torch.allclose(measures.state_growth, with_length / norms[beyond].mean(0))
    difference = whole.delta[:, 16:].mean((0, 1)) - torch.cat(steps).mean(0)
    deviation = whole.delta[:, :16].flatten(0, 1).std(0, unbiased=False)
    assert torch.allclose(measures.step_shift, difference / deviation)


def whole_states(passes: list[SelectiveRecurrence], batch: int = 2) -> torch.Tensor:
    """Every state of every pass, `(batch, length, channels, state)`, step by step."""
    rows = []
    for p in passes:
        h = torch.zeros(batch, 5, 3, dtype=torch.float64)
        states = []
        for t in range(p.length):
            step = p.delta[:, t, :, None]
            h = torch.exp(step * p.A) * h + step * p.u[:, t, :, None] * p.B[:, t]
            states.append(h)
        rows.append(torch.stack(states, dim=1))
    return torch.cat(rows)


def test_selectivity_is_one_where_the_token_decides_and_nought_where_it_does_not() -> None:
    tokens = torch.randint(0, 50, (1, 20_000))
    decides, ignores = GateByToken(50), GateByToken(50)
    decides.update(tokens.double() ** 0.5, tokens)
    ignores.update(torch.randn(1, 20_000), tokens)
    assert decides.selectivity() == pytest.approx(1.0)
    assert ignores.selectivity() < 0.003
    constant = GateByToken(50)
    constant.update(torch.ones(1, 100), tokens[:, :100])
    assert constant.selectivity() == 0.0


def test_alignment_finds_the_direction_that_drives_the_gate() -> None:
    hidden = torch.randn(1, 5000, 4)
    alignment = Alignment(torch.eye(4))
    alignment.update(-3 * hidden[..., 2], hidden)
    correlation = alignment.correlation()
    assert correlation[2] == pytest.approx(-1.0)
    assert correlation[[0, 1, 3]].abs().max() < 0.1


def test_distance_and_reach() -> None:
    assert distance_and_reach(torch.tensor([0.0, 0.0, 1.0])) == (0.0, 0.0)
    assert distance_and_reach(torch.tensor([1.0, 0.0, 0.0])) == (2.0, 2.0)
    assert distance_and_reach(torch.ones(11)) == (5.0, 9.0)
    assert distance_and_reach(torch.zeros(3)) == (0.0, 0.0)


@settings(max_examples=25)
@given(st.floats(0.5, 1.5), st.integers(0, 3))
def test_growth_exponent_of_power_laws(exponent: float, seed: int) -> None:
    span = Span(512, 32)
    statistics = LayerStatistics(torch.full((4, 1), -1.0), span, 3)
    positions = torch.tensor(statistics.positions, dtype=torch.float64) + 1
    scale = torch.rand(4, generator=torch.Generator().manual_seed(seed)).double() + 0.5
    statistics.state_sum = positions.unsqueeze(-1) ** exponent * scale
    statistics.sequences = 1
    measures = LayerMeasures(None, statistics)  # type: ignore[arg-type]
    assert measures.growth_exponent == pytest.approx(exponent, abs=1e-6)


def test_dead_and_saturated_rates() -> None:
    span = Span(64, 32)
    statistics = LayerStatistics(torch.tensor([[-1.0], [-1.0], [-1.0], [-200.0]]), span, 3)
    statistics.sequences = 1
    statistics.state_sum += torch.tensor([1.0, 2.0, 1e-9, 1.0])
    for i, bin_ in enumerate(span.bins()):
        statistics.step_sum[i] += 0.01 * (bin_.stop - bin_.start)
    measures = LayerMeasures(None, statistics)  # type: ignore[arg-type]
    assert measures.dead.tolist() == [False, False, True, False]
    assert measures.saturated.tolist() == [False, False, False, True]
    assert measures.longest_horizon.tolist() == pytest.approx([100.0, 100.0, 100.0, 0.5])
    assert measures.beyond_train_length == 0.75
