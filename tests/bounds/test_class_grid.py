"""The grid of classes: it covers everything, and its weights sum to at most one."""

import dataclasses
import math
from fractions import Fraction

import mpmath
import pytest
from bounds_reference import SMALL
from hypothesis import example, given
from hypothesis import strategies as st

from keelback.bounds import ClassGrid, level_weight
from keelback.errors import InputError


def test_level_weights_sum_to_one() -> None:
    one_side = mpmath.nsum(lambda i: mpmath.mpf(2) / (3 * (i + 1) * (i + 2)), [1, mpmath.inf])
    assert float(2 * one_side + level_weight(0)) == pytest.approx(1, abs=1e-12)
    assert level_weight(-3) == level_weight(3) == pytest.approx(2 / 3 / 20)


@given(
    st.floats(1e-8, 1e8), st.floats(-50, 50), st.floats(0, 100), st.floats(-20, 20),
    st.floats(1e-6, 1e3), st.floats(1.01, 4),
)  # fmt: skip
def test_the_chosen_class_holds_the_measured_one_and_is_not_much_larger(
    norm: float, s_A: float, extra: float, p: float, margin: float, ratio: float
) -> None:
    c = dataclasses.replace(
        SMALL, B_u=norm, s_A=s_A, B_A=abs(s_A) + extra, B_w=norm, M_w=2 * norm, p_lo=p, p_hi=p + 1
    )
    grid = ClassGrid(ratio=ratio)
    enclosure = grid.enclose(c, margin)
    outer = enclosure.constants
    for name in ("B_u", "B_A", "B_B", "M_B", "B_C", "M_C", "B_q", "M_q", "B_w", "M_w"):
        inner = getattr(c, name)
        assert inner <= getattr(outer, name) <= inner * ratio * (1 + 1e-5)
    assert s_A <= outer.s_A <= max(s_A * ratio, s_A / ratio) + 1e-5 * abs(s_A)
    assert outer.p_lo <= p
    assert outer.p_hi >= p + 1
    assert p - outer.p_lo <= grid.spacing
    assert enclosure.margin is not None
    assert margin / ratio * (1 - 1e-5) <= enclosure.margin <= margin
    assert enclosure.log_weight < 0


def test_a_class_of_the_grid_is_its_own_enclosure() -> None:
    grid = ClassGrid()
    once = grid.enclose(SMALL).constants
    assert grid.enclose(once).constants == once


@given(st.floats(-1e59, 1e59), st.floats(1e-30, 1e3))
@example(p=0.7, spacing=0.1)
@example(p=-1e59, spacing=1e-30)
def test_offsets_are_held_at_every_spacing(p: float, spacing: float) -> None:
    c = dataclasses.replace(SMALL, p_lo=p, p_hi=p)
    enclosure = ClassGrid(spacing=spacing).enclose(c)
    assert enclosure.constants.p_lo <= p <= enclosure.constants.p_hi
    gap = Fraction(enclosure.constants.p_hi) - Fraction(p)
    assert gap <= Fraction(spacing) + Fraction(math.ulp(p))
    assert math.isfinite(enclosure.log_weight)


def test_a_share_that_no_double_holds_is_refused() -> None:
    enclosure = ClassGrid().enclose(SMALL)
    assert 0 < enclosure.share(1e-250) < 1e-250
    with pytest.raises(InputError, match=r"delta = 9\.99989e-321 is too small"):
        enclosure.share(1e-320)


def test_zeros_have_their_own_level() -> None:
    c = dataclasses.replace(SMALL, s_A=0.0, B_q=0.0, M_q=0.0)
    outer = ClassGrid().enclose(c).constants
    assert (outer.s_A, outer.B_q, outer.M_q) == (0.0, 0.0, 0.0)


def test_share_of_delta_is_the_product_of_the_weights() -> None:
    grid = ClassGrid(ratio=2.0, spacing=1.0)
    ones = dataclasses.replace(
        SMALL, B_u=1.0, s_A=1.0, B_A=1.0, B_B=1.0, M_B=1.0, B_C=1.0, M_C=1.0, B_q=1.0, M_q=1.0,
        B_w=1.0, M_w=1.0, p_lo=0.0, p_hi=0.0,
    )  # fmt: skip
    expected = 0.05 * (3 / 4 / 3) ** 10 * (3 / 8 / 3) * (1 / 3) ** 2
    assert grid.enclose(ones).share(0.05) == pytest.approx(expected)
    with_margin = grid.enclose(ones, margin=1.5)
    assert with_margin.margin == 1.0
    assert with_margin.share(0.05) == pytest.approx(expected / 3)
    with pytest.raises(InputError, match="delta"):
        with_margin.share(1.0)


@pytest.mark.parametrize("arguments", [{"ratio": 1.0}, {"ratio": math.inf}, {"spacing": 0.0}])
def test_grids_without_levels_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        ClassGrid(**arguments)
