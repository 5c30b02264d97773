"""Bounds of classes that are rounded outward: never on the wrong side of the exact number."""

import dataclasses
import functools
import math
import random
import sys
from collections.abc import Callable

import mpmath
import pytest
from bounds_reference import SMALL
from mpmath import mpf
from random_sets import SETS, is_close_above, log_uniform, random_classes
from written_again import RIGHT, bounds_of, digits_for, log, log_sums, power_sums, softplus

from keelback import bounds
from keelback.bounds import (
    Ball,
    ClassConstants,
    ComplexConstants,
    DenseConstants,
    Intervals,
    MambaBlockConstants,
    StackConstants,
    outward,
)
from keelback.bounds._covering import Block, BlockCover, best_cover, cover_log_count
from keelback.bounds._numbers import ball, enclosed, upper_end
from keelback.errors import InputError

flint = pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
pytestmark = pytest.mark.usefixtures("unchecked")


def clear_values(
    found: dict[str, float], written: Callable[[], dict[str, mpf]], digits: int
) -> dict[str, mpf]:
    """The exact values, with many more digits where one is too near what was found to tell."""
    with mpmath.workdps(digits):
        expected = written()
    near = mpf(10) ** -RIGHT
    if all(x == -mpmath.inf or abs(found[name] - x) > near for name, x in expected.items()):
        return expected
    with mpmath.workdps(digits + 300):
        return written()


def test_what_is_written_again_is_right_to_thirty_digits() -> None:
    for c in random_classes(200):
        if 0 in (c.B_u, c.B_B, c.B_C, c.B_w):
            continue
        with mpmath.workdps(digits_for(c)):
            found = log_sums(c) | bounds_of(c)
        with mpmath.workdps(400):
            for name, value in (log_sums(c) | bounds_of(c)).items():
                same = found[name] == value == -mpmath.inf
                assert same or abs(found[name] - value) < mpf(10) ** -RIGHT * max(1, abs(value)), c


@pytest.mark.slow
def test_closed_forms_of_random_classes() -> None:
    for c in random_classes(SETS):
        found, written = vars(outward.step_sums(c)), functools.partial(log_sums, c)
        for name, value in clear_values(found, written, digits_for(c)).items():
            assert is_close_above(found[name], value), (name, c)
        found = {
            "output": outward.log_output_bound(c),
            "published": outward.published_log_rademacher(c),
            "lower": outward.lower_log_rademacher(c),
        }
        if 0 in (c.B_u, c.B_B, c.B_C, c.B_w):
            assert set(found.values()) == {-math.inf}
            continue
        written = functools.partial(bounds_of, c)
        for name, value in clear_values(found, written, digits_for(c)).items():
            sign = -1 if name == "lower" else 1
            assert is_close_above(sign * found[name], sign * value), (name, c)


def test_a_class_of_zero_alone_is_summarised() -> None:
    found = outward.summarise(dataclasses.replace(SMALL, B_w=0.0, M_w=0.0))
    assert set(found.log_rademacher.values()) == {-math.inf}
    assert found.log_risk["published"] >= math.log(found.confidence)


def test_sums_of_random_classes_with_other_states() -> None:
    """Complex and dense ones in turn: S2 + omega S3, and |A| S3, in the place of S2."""
    draw = random.Random(1)
    for number, c in enumerate(random_classes(SETS)):
        plain = {name: value for name, value in vars(c).items() if name != "omega"}
        other: ClassConstants
        if number % 2:
            omega = draw.choice([0.0, log_uniform(draw, 1e-30, 1e30)])
            other = ComplexConstants(**plain, omega=omega)
        else:
            other = DenseConstants(**plain)

        def written(other: ClassConstants = other) -> dict[str, mpf]:
            sums = log_sums(other)
            s_3 = mpmath.exp(sums["log_absolute"])
            if isinstance(other, ComplexConstants):
                relative = mpmath.exp(sums["log_relative"]) + mpf(other.omega) * s_3
            else:
                relative = mpf(other.B_A) * s_3
            return sums | {"log_relative": log(relative)}

        found = vars(outward.step_sums(other))
        for name, value in clear_values(found, written, digits_for(other)).items():
            assert is_close_above(found[name], value), (name, other)


def test_output_bounds_of_random_stacks_and_blocks() -> None:
    """What is printed; `test_outward_classes.py` has 10,000 sets of all newer kinds in balls."""
    draw = random.Random(2)
    tried = 0
    for c in random_classes(300):
        layer = dataclasses.replace(
            c, B_u=min(c.B_u, 3.0), B_B=min(c.B_B, 9.0), B_C=min(c.B_C, 9.0)
        )
        layers = (layer, dataclasses.replace(layer, B_q=layer.B_q / 2, p_hi=layer.p_hi + 0.5))
        norms = {
            name: draw.choice([0.0, 1.0, log_uniform(draw, 1e-6, 1e6)])
            for name in ("B_x", "B_in", "B_g", "B_conv", "B_bias", "B_D")
        }
        block = MambaBlockConstants(layer, d_model=3, d_conv=4, **norms)
        with mpmath.workdps(250):
            try:
                found = outward.log_output_bound(StackConstants(layers))
            except InputError:
                continue  # Tokens of the second layer beyond 1e60.
            tried += 1
            norm = mpf(layers[0].B_u)
            for own in (dataclasses.replace(layers[0], B_w=1.0, M_w=1.0), layers[1]):
                norm = exact_output(own, norm)
            assert is_close_above(found, log(norm)), layers
            v = mpf(block.B_conv) * mpf(block.B_in) * mpf(block.B_x) + mpf(block.B_bias)
            channel = exact_output(dataclasses.replace(layer, B_w=1.0, M_w=1.0), v)
            gate = mpf(layer.B_w) * mpf(block.B_g) * mpf(block.B_x)
            value = gate * (channel + mpf(block.B_D) * v)
            assert is_close_above(outward.log_output_bound(block), log(value)), block
    assert tried > 100


def exact_output(c: ClassConstants, norm: mpf) -> mpf:
    """B_w B_B B_C B_u^3 S1 for tokens of this norm, which need not be a double."""
    D = softplus(mpf(c.p_hi) + mpf(c.B_q) * norm)
    geometric, _ = power_sums(mpf(c.s_A) * D, c.T)
    return mpf(c.B_w) * mpf(c.B_B) * mpf(c.B_C) * norm**3 * D * geometric


def random_cover(draw: random.Random) -> tuple[list[Block], list[BlockCover]]:
    blocks: list[Block] = []
    covers = []
    for index in range(draw.randint(1, 8)):
        reach = draw.uniform(-40, 40) * draw.choice([1, 1, 1e3])
        k = draw.choice([1, draw.randint(1, 10**6)])
        kind = draw.choice(["interval", "volume", "maurey"])
        if kind == "interval":
            blocks.append(Intervals(k, reach))
        else:
            blocks.append(Ball(k, reach, reach + draw.uniform(0, 5), draw.randint(1, 40)))
        covers.append(BlockCover(index, kind, draw.uniform(-30, 3)))  # type: ignore[arg-type]
    return blocks, covers


def exact_count(blocks: list[Block], covers: list[BlockCover], log_radius: float) -> mpf:
    shares = [mpmath.exp(cover.log_radius) for cover in covers]
    total = mpf(0)
    for block, cover, share in zip(blocks, covers, shares, strict=True):
        radius = share * mpmath.exp(log_radius) / mpmath.fsum(shares)
        reach = mpmath.exp(block.log_reach)
        if isinstance(block, Intervals):
            total += block.coordinates * mpmath.log1p(reach / radius)
        elif cover.cover == "maurey":
            ratio = mpmath.exp(block.log_absolute_reach) / radius
            total += block.copies * ratio**2 * mpmath.log(2 * block.coordinates + 1)
        else:
            total += block.copies * block.coordinates * mpmath.log1p(2 * reach / radius)
    return total


def test_counts_of_random_covers() -> None:
    """Whatever covers are chosen, their count is an upper bound; so the choice needs no proof."""
    draw = random.Random(1)
    for _ in range(SETS):
        blocks, covers = random_cover(draw)
        log_radius = draw.uniform(-30, 30)

        def count(
            blocks: list[Block] = blocks,
            covers: list[BlockCover] = covers,
            log_radius: float = log_radius,
        ) -> object:
            return cover_log_count(in_balls(blocks), covers, ball(log_radius))

        found = upper_end(enclosed(count))
        with mpmath.workdps(60):
            value = exact_count(blocks, covers, log_radius)
            assert value <= found
            if value > mpmath.mpf(sys.float_info.max):
                assert found == math.inf
                continue
            assert found <= max(value * (1 + mpf(2) ** -50), mpf(5e-324)), (found, value)


def in_balls(blocks: list[Block]) -> list[Block]:
    made: list[Block] = []
    for block in blocks:
        changes = {"log_reach": ball(block.log_reach)}
        if isinstance(block, Ball) and block.log_absolute_reach is not None:
            changes["log_absolute_reach"] = ball(block.log_absolute_reach)
        made.append(dataclasses.replace(block, **changes))
    return made


def test_nets_and_covers_of_random_classes() -> None:
    """Bounds with choices inside stay close above those in doubles, which a search has chosen."""
    names = (
        "sharpened", "linear_attention", "softmax_attention", "rnn", "lti",
    )  # fmt: skip
    draw = random.Random(2)
    for c in random_classes(SETS // 250):
        for name in names:
            function = f"{name}_log_rademacher"
            value = getattr(bounds, function)(c)
            found = getattr(outward, function)(c)
            if not math.isfinite(value):
                assert found == value
                continue
            assert abs(found - value) <= 1e-6 * max(1.0, abs(value)), (name, c)
        gap = {"margin": log_uniform(draw, 1e-3, 1e3), "delta": log_uniform(draw, 1e-9, 0.9)}
        value = bounds.log_covering_gap(c, **gap)
        assert outward.log_covering_gap(c, **gap) == pytest.approx(value, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("T", [1, 50])
def test_a_net_written_again_in_sixty_digits(T: int) -> None:
    """The sharpened bound of one class, from the doubles' radii and covers by mpmath alone."""
    c = dataclasses.replace(SMALL, T=T)
    approximate = bounds.selective_class(c)
    _, chain = bounds.best_chain(
        lambda radii: bounds.class_log_count(approximate.blocks, radii), c.m
    )
    with mpmath.workdps(60):
        sums = {name: mpmath.exp(value) for name, value in log_sums(c).items()}
        log_bound = bounds_of(c)["output"]
        gate = 1 + sums["log_relative"]
        eta = 2.0**-4
        state = (sums["log_decaying"] + eta * sums["log_absolute"]) * mpmath.log(
            (eta + c.B_A) / (eta - c.s_A)
        ) / 2  # fmt: skip
        reaches = [
            mpf(1), mpf(1), mpf(1), state, gate * (mpf(c.p_hi) - mpf(c.p_lo)) / 2,
            gate * mpf(c.B_q) * mpf(c.B_u),
        ]  # fmt: skip
        assert reaches[3] >= mpmath.exp(approximate.blocks[3].log_reach) * (1 - 1e-9)
        radii = [mpmath.exp(mpf(level)) for level in chain]
        relative = radii[-1]
        absolute = {0: ("M_w", "B_w"), 1: ("M_B", "B_B"), 2: ("M_C", "B_C"), 5: ("M_q", "B_q")}
        for level in range(1, len(chain)):
            covers = best_cover(approximate.blocks, chain[level])
            shares = [mpmath.exp(mpf(cover.log_radius)) for cover in covers]
            count = mpf(0)
            for cover, share in zip(covers, shares, strict=True):
                own = share * radii[level] / mpmath.fsum(shares)
                block, reach = approximate.blocks[cover.block], reaches[cover.block]
                if cover.block == 3:
                    reach = mpmath.exp(mpf(block.log_reach))  # eta is the doubles' choice
                if isinstance(block, Intervals):
                    count += block.coordinates * mpmath.log(1 + reach / own)
                elif cover.cover == "maurey":
                    M, B = (mpf(getattr(c, name)) for name in absolute[cover.block])
                    count += (reach * M / B / own) ** 2 * mpmath.log(2 * block.coordinates + 1)
                else:
                    count += block.coordinates * mpmath.log(1 + 2 * reach / own)
            relative += radii[level - 1] * mpmath.sqrt(2 * count / c.m)
        expected = log_bound + mpmath.log(relative)
    assert outward.sharpened_log_rademacher(c) == pytest.approx(float(expected), abs=1e-13)
