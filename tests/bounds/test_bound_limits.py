"""Ordering, limits, monotonicity and range of the bounds of a class."""

import dataclasses
import math

import numpy as np
import pytest
from bounds_reference import SMALL, with_constants
from hypothesis import given, settings
from hypothesis import strategies as st

from keelback.bounds import (
    ClassConstants,
    chaining_radii,
    linear_attention_log_rademacher,
    log_covering_gap,
    log_output_bound,
    lower_log_rademacher,
    lti_log_rademacher,
    published_log_rademacher,
    published_terms,
    rnn_log_rademacher,
    selective_blocks,
    sharpened_log_rademacher,
    softmax_attention_log_rademacher,
    summarise,
)

RISING = ["B_u", "s_A", "B_A", "B_B", "M_B", "B_C", "M_C", "B_q", "M_q", "B_w", "M_w", "p_hi", "T"]
BOUNDS = {
    "published": published_log_rademacher,
    "sharpened": sharpened_log_rademacher,
    "lower": lower_log_rademacher,
    "linear attention": linear_attention_log_rademacher,
    "softmax attention": softmax_attention_log_rademacher,
    "rnn": rnn_log_rademacher,
    "lti": lti_log_rademacher,
    "output": log_output_bound,
    "covering": lambda c: log_covering_gap(c, margin=0.7, delta=0.05),
}


@st.composite
def classes(draw: st.DrawFn) -> ClassConstants:
    norms = [draw(st.floats(0.05, 20)) for _ in range(5)]
    ratios = [draw(st.floats(1, 4)) for _ in range(4)]
    s_A = draw(st.floats(-3, 0.5))
    p_lo = draw(st.floats(-4, 2))
    B_u, B_B, B_C, B_q, B_w = norms
    return ClassConstants(
        B_u=B_u, s_A=s_A, B_A=abs(s_A) + draw(st.floats(0, 20)),
        B_B=B_B, M_B=B_B * ratios[0], B_C=B_C, M_C=B_C * ratios[1],
        B_q=B_q, M_q=B_q * ratios[2], B_w=B_w, M_w=B_w * ratios[3],
        p_lo=p_lo, p_hi=p_lo + draw(st.floats(0, 4)),
        T=draw(st.integers(1, 10**6)), m=draw(st.integers(1, 10**6)),
        d=draw(st.integers(1, 64)), N=draw(st.integers(1, 16)),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(classes())
def test_lower_sharpened_and_published_come_in_this_order(c: ClassConstants) -> None:
    lower, sharpened = lower_log_rademacher(c), sharpened_log_rademacher(c)
    assert lower <= sharpened + 1e-9
    assert sharpened <= log_output_bound(c) + 1e-9
    assert sharpened <= published_log_rademacher(c)


@settings(max_examples=16, deadline=None)
@given(classes(), st.sampled_from(RISING), st.floats(1.001, 3))
def test_every_bound_rises_with_every_constant(c: ClassConstants, name: str, factor: float) -> None:
    larger = raised(c, name, factor)
    for key, bound in BOUNDS.items():
        assert bound(larger) >= bound(c) - 1e-7, key


def raised(c: ClassConstants, name: str, factor: float) -> ClassConstants:
    value = getattr(c, name)
    if name in ("s_A", "p_hi"):
        changes = {name: value + math.log(factor)}
    elif name == "T":
        changes = {name: math.ceil(value * factor)}
    else:
        changes = {name: value * factor}
    if name in ("B_B", "B_C", "B_q", "B_w"):
        changes["M" + name[1:]] = getattr(c, "M" + name[1:]) * factor
    if name == "s_A" and c.s_A < 0 <= changes[name]:
        changes[name] = 0.0
    return dataclasses.replace(c, **changes)


@settings(max_examples=8, deadline=None)
@given(classes(), st.floats(0.1, 3))
def test_every_bound_falls_with_p_lo_and_with_m(c: ClassConstants, less: float) -> None:
    wider = dataclasses.replace(c, p_lo=c.p_lo - less)
    fewer = dataclasses.replace(c, m=max(1, c.m // 2))
    for name, bound in BOUNDS.items():
        value = bound(c)
        assert bound(wider) >= value - 1e-7, name
        assert bound(fewer) >= value - 1e-7, name


@settings(max_examples=8, deadline=None)
@given(classes())
def test_every_upper_bound_rises_with_the_dimensions(c: ClassConstants) -> None:
    for name, bound in BOUNDS.items():
        value = bound(c)
        assert bound(dataclasses.replace(c, d=2 * c.d)) >= value - 1e-7, name
        if name != "rnn":  # its state bound sqrt(N) is part of the output's scale
            assert bound(dataclasses.replace(c, N=2 * c.N)) >= value - 1e-7, name


@pytest.mark.parametrize("T", [1, 30, 10**6])
@pytest.mark.parametrize("name", list(BOUNDS))
def test_bounds_are_continuous_as_the_abscissa_passes_zero(name: str, T: int) -> None:
    middle = BOUNDS[name](with_constants(s_A=0.0, T=T))
    for s_A in (-1e-15, 1e-15):
        assert BOUNDS[name](with_constants(s_A=s_A, T=T)) == pytest.approx(middle, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["published", "sharpened", "lower", "output", "softmax attention", "lti", "covering"]
)
def test_stable_bounds_settle_as_the_length_grows(name: str) -> None:
    settled = BOUNDS[name](with_constants(T=10**9))
    assert BOUNDS[name](with_constants(T=10**6)) == pytest.approx(settled, abs=1e-9)
    assert settled > BOUNDS[name](with_constants(T=1)) or name == "softmax attention"


def test_sharpened_and_lower_grow_alike_where_published_has_a_factor_T_more() -> None:
    short, long = with_constants(s_A=0.2, T=10**4), with_constants(s_A=0.2, T=10**6)

    def growth(name: str) -> float:
        return BOUNDS[name](long) - BOUNDS[name](short)

    assert growth("sharpened") - growth("lower") == pytest.approx(0, abs=0.5)
    assert growth("published") - growth("lower") == pytest.approx(math.log(100), abs=0.1)


def test_marginal_class_grows_like_T_and_published_like_T_squared() -> None:
    short, long = with_constants(s_A=0.0, T=10**4), with_constants(s_A=0.0, T=10**6)
    ratio = math.log(100)
    assert log_output_bound(long) - log_output_bound(short) == pytest.approx(ratio)
    grown = published_log_rademacher(long) - published_log_rademacher(short)
    assert grown == pytest.approx(2 * ratio, abs=0.05)


def test_published_stable_constant_explodes_with_the_gate_where_sharpened_does_not() -> None:
    def span(name: str) -> float:
        gated = with_constants(B_q=30.0, M_q=30.0, T=10**9)
        return BOUNDS[name](gated) - BOUNDS[name](with_constants(B_q=3.0, M_q=3.0, T=10**9))

    assert span("published") > 27
    assert span("sharpened") < 4


def test_one_token_class_has_the_closed_output_bound() -> None:
    c = with_constants(T=1)
    D = math.log1p(math.exp(c.p_hi + c.B_q * c.B_u))
    assert math.exp(log_output_bound(c)) == pytest.approx(c.B_w * c.B_B * c.B_C * c.B_u**3 * D)
    assert published_terms(c).log_s2 == -math.inf


@pytest.mark.parametrize("s_A", [-1e6, -1.0, 0.0, 1e-9, 1e6])
@pytest.mark.parametrize("T", [1, 10**9])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_bound_overflows(s_A: float, T: int, scale: float) -> None:
    norms = dict.fromkeys(("B_u", "B_B", "M_B", "B_C", "M_C", "B_q", "M_q", "B_w", "M_w"), scale)
    c = with_constants(**norms, s_A=s_A, B_A=1e6, p_lo=-1e6, p_hi=1e6, T=T, m=10**9, d=512, N=64)
    summary = summarise(c, vocab_size=50_000)
    numbers = [
        summary.log_output_bound, *summary.log_rademacher.values(), *summary.log_risk.values(),
    ]  # fmt: skip
    assert all(math.isfinite(x) for x in numbers)


def test_a_class_of_zero_functions_has_complexity_zero() -> None:
    zero = summarise(with_constants(B_w=0.0, M_w=0.0)).as_dict()
    assert zero["output_bound"] == {"log10": None, "value": 0.0}
    silent = with_constants(B_B=0.0, M_B=0.0)
    assert softmax_attention_log_rademacher(silent) > -math.inf
    assert sharpened_log_rademacher(silent) == -math.inf


def test_a_class_without_a_gate_or_with_fixed_states_is_bounded() -> None:
    for changes in ({"B_q": 0.0, "M_q": 0.0}, {"B_A": 0.2}, {"p_lo": 0.5}):
        c = with_constants(**changes)
        assert lower_log_rademacher(c) <= sharpened_log_rademacher(c) <= log_output_bound(c)


def test_a_trained_embedding_costs_more_and_only_through_its_entropy() -> None:
    c = dataclasses.replace(SMALL, m=10**6)
    fixed, trained = sharpened_log_rademacher(c), sharpened_log_rademacher(c, vocab_size=50)
    assert fixed < trained < fixed + math.log(10)


@pytest.mark.parametrize("s_A", [-0.4, 0.0, 0.2])
@pytest.mark.parametrize("m", [1, 50, 10**6])
@pytest.mark.parametrize("T", [1, 30, 10**4])
def test_the_sharpened_bound_is_at_most_that_of_one_net(s_A: float, m: int, T: int) -> None:
    """The last inequality of Theorem 4, with its constant: twelve times the largest reach."""
    c = with_constants(s_A=s_A, m=m, T=T)
    blocks = selective_blocks(c)
    coordinates = sum(block.coordinates for block in blocks)
    assert coordinates == 3 * c.N * c.d + 2 * c.d + 1
    log_kappa = math.log(12) + max(block.log_reach for block in blocks)
    one_net = min(
        math.exp(log_radius)
        + math.sqrt(2 / m * coordinates * np.logaddexp(0.0, log_kappa - log_radius))
        for log_radius in chaining_radii()
    )
    assert sharpened_log_rademacher(c) <= log_output_bound(c) + math.log(one_net) + 1e-9
