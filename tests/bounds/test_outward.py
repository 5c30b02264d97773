"""What is rounded outward is never on the wrong side of the exact number: 10,000 random sets."""

import dataclasses
import math
import random
import sys
from collections.abc import Iterator
from fractions import Fraction

import mpmath
import pytest
from bounds_reference import SMALL
from mpmath import mpf
from test_published_oracle import exact as exact_bounds
from test_published_oracle import power_sums, softplus

from keelback import bounds
from keelback.bounds import (
    Ball,
    ClassConstants,
    ComplexConstants,
    DenseConstants,
    Intervals,
    MambaBlockConstants,
    StackConstants,
    StepSums,
    azuma_excess,
    freedman_excess,
    outward,
)
from keelback.bounds._covering import Block, BlockCover, best_cover, cover_log_count
from keelback.bounds._numbers import ball, enclosed, lower_end, upper_end
from keelback.bounds.outward._doubles import smallest_double
from keelback.errors import InputError

SETS = 10_000
flint = pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")


def log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def random_class(draw: random.Random) -> ClassConstants:
    """From the ordinary to the extreme: norms to 1e30, lengths and samples to 1e15, s_A near 0."""
    wide = draw.choice([1.5, 20.0, 1e6, 1e30])

    def norm() -> float:
        return (
            draw.choice([1.0, 0.0]) if draw.random() < 0.02 else log_uniform(draw, 1 / wide, wide)
        )

    pairs = {}
    for euclidean, absolute in (("B_B", "M_B"), ("B_C", "M_C"), ("B_q", "M_q"), ("B_w", "M_w")):
        pairs[euclidean] = norm()
        pairs[absolute] = pairs[euclidean] * draw.choice([1.0, log_uniform(draw, 1, 50)])
    s_A = draw.choice([0.0, draw.uniform(-3, 0.5), -1e-15, 1e-15, -log_uniform(draw, 1e-18, 1e3)])
    B_A = max(-s_A, 0.0) + draw.choice([0.0, norm()])
    p_lo = draw.choice([0.0, draw.uniform(-60, 30)])
    return ClassConstants(
        B_u=norm(), s_A=s_A, B_A=B_A, **pairs, p_lo=p_lo,
        p_hi=p_lo + draw.choice([0.0, draw.uniform(0, 4)]),
        T=draw.choice([1, 2, draw.randint(1, 400), int(log_uniform(draw, 1, 1e15))]),
        m=draw.choice([1, draw.randint(1, 999), int(log_uniform(draw, 1, 1e5))]),
        d=draw.randint(1, 10**4), N=draw.randint(1, 64),
    )  # fmt: skip


def random_classes(count: int) -> Iterator[ClassConstants]:
    draw = random.Random(0)
    return (random_class(draw) for _ in range(count))


def exact_log_sums(c: ClassConstants) -> dict[str, mpf]:
    """The four fields of `StepSums`, from Lemmas 1 to 3 as they are written."""
    D = softplus(mpf(c.p_hi) + mpf(c.B_q) * mpf(c.B_u))
    s, T = mpf(c.s_A), mpf(c.T)
    geometric, indexed = power_sums(s * D, c.T)
    s_1 = D * geometric
    if c.s_A < 0:
        s_2 = min((T - 1) * D, 3 / -s + D) / mpmath.e
        s_3 = min(D**2 * T * (T - 1) / 2, 1 / s**2 + D / (mpmath.e * -s))
        relative = s_2
    else:
        s_2 = (T - 1) * D / mpmath.e
        s_3 = D**2 * indexed
        relative = s_2 + s * s_3
    return {
        "log_output": mpmath.log(s_1),
        "log_decaying": log(s_2 / s_1),
        "log_absolute": log(s_3 / s_1),
        "log_relative": log(relative / s_1),
    }


def log(x: mpf) -> mpf:
    return mpmath.log(x) if x > 0 else -mpmath.inf


def is_close_above(found: float, value: mpf) -> bool:
    """Not below, and no more than a few units in the last place above."""
    if value == -mpmath.inf:
        return found == -math.inf
    return found >= value and found - value <= 8 * math.ulp(max(abs(found), 1.0))


@pytest.mark.slow
def test_closed_forms_of_random_classes() -> None:
    """Digits are for sums that cancel: 1 - rho at s_A D = 1e-45 needs twice that many."""
    for c in random_classes(SETS):
        cancels = 0 < abs(c.s_A) < 1e-6 or c.B_q * c.B_u > 20
        digits = 250 if cancels else 120
        with mpmath.workdps(digits):
            sums = outward.step_sums(c)
            for name, value in exact_log_sums(c).items():
                assert is_close_above(getattr(sums, name), value), (name, c)
            if 0 in (c.B_u, c.B_B, c.B_C, c.B_w):
                assert outward.log_output_bound(c) == -math.inf
                continue
            expected = exact_bounds(c, digits)
            assert is_close_above(outward.log_output_bound(c), expected["output"]), c
            assert is_close_above(outward.published_log_rademacher(c), expected["published"]), c
            assert is_close_above(-outward.lower_log_rademacher(c), -expected["lower"]), c


@pytest.mark.slow
def test_sums_of_random_classes_with_other_states() -> None:
    """Complex and dense ones in turn: S2 + omega S3, and |A| S3, in the place of S2."""
    draw = random.Random(1)
    for number, c in enumerate(random_classes(SETS // 5)):
        plain = {name: value for name, value in vars(c).items() if name != "omega"}
        other: ClassConstants
        if number % 2:
            omega = draw.choice([0.0, log_uniform(draw, 1e-30, 1e30)])
            other = ComplexConstants(**plain, omega=omega)
        else:
            other = DenseConstants(**plain)
        with mpmath.workdps(250):
            expected = exact_log_sums(c)
            s_3 = mpmath.exp(expected["log_absolute"])
            if number % 2:
                relative = mpmath.exp(expected["log_relative"]) + mpf(omega) * s_3
            else:
                relative = mpf(c.B_A) * s_3
            expected["log_relative"] = log(relative)
            sums = outward.step_sums(other)
            for name, value in expected.items():
                assert is_close_above(getattr(sums, name), value), (name, other)


def test_output_bounds_of_random_stacks_and_blocks() -> None:
    """Written out from Corollaries 8 and 9, to 250 digits."""
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        sums = {name: mpmath.exp(value) for name, value in exact_log_sums(c).items()}
        log_bound = exact_bounds(c, 60)["output"]
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


def random_mean(draw: random.Random) -> float:
    return draw.choice(
        [0.0, 1.0, 1 - 2**-53, draw.random(), log_uniform(draw, 1e-60, 1), 1e-60, 0.999999]
    )


def exact_kl(mean: float, p: float) -> mpf:
    q, p = mpf(mean), mpf(p)
    if p == 1:
        return mpmath.inf if q < 1 else mpf(0)
    rest = (1 - q) * (mpmath.log1p(-q) - mpmath.log1p(-p)) if q < 1 else 0
    return rest + (q * mpmath.log(q / p) if q else 0)


@pytest.mark.slow
def test_kl_inverses_of_random_means_and_budgets() -> None:
    draw = random.Random(3)
    with mpmath.workdps(100):
        for _ in range(SETS):
            mean = random_mean(draw)
            budget = draw.choice([0.0, 1e-16, log_uniform(draw, 1e-80, 1e3), draw.random()])
            found = outward.kl_inverse(mean, budget)
            assert mean <= found <= 1
            if budget == 0 or mean == 1:
                assert found == mean
                continue
            assert exact_kl(mean, found) >= budget, (mean, budget)
            below = math.nextafter(found, 0)
            assert below <= mean or exact_kl(mean, below) < budget, (mean, budget)


def exact_tail(errors: int, examples: int, p: float) -> Fraction:
    one, rest = Fraction(p), 1 - Fraction(p)
    return sum(
        (math.comb(examples, k) * one**k * rest ** (examples - k) for k in range(errors + 1)),
        Fraction(0),
    )


def test_clopper_pearson_of_random_counts() -> None:
    draw = random.Random(4)
    for _ in range(SETS):
        examples = draw.choice([1, draw.randint(1, 40)])
        errors = draw.randint(0, examples)
        delta = draw.choice([0.05, draw.random() or 0.5, log_uniform(draw, 1e-300, 1)])
        found = outward.clopper_pearson(errors, examples, delta)
        if errors == examples:
            assert found == 1
            continue
        assert exact_tail(errors, examples, found) <= Fraction(delta)
        below = math.nextafter(found, 0)
        assert found == 1 or exact_tail(errors, examples, below) >= Fraction(delta)


@pytest.mark.parametrize(("errors", "examples"), [(4235, 25000), (0, 10**6), (123_456, 10**6)])
@pytest.mark.parametrize("delta", [0.05, 1e-10, Fraction(1, 30), 3e-16])
def test_clopper_pearson_of_large_counts(errors: int, examples: int, delta: Fraction) -> None:
    found = outward.clopper_pearson(errors, examples, delta)
    with mpmath.workdps(40):

        def tail(p: float) -> mpf:
            log_first = (
                mpmath.loggamma(examples + 1) - mpmath.loggamma(errors + 1)
                - mpmath.loggamma(examples - errors + 1) + errors * mpmath.log(p)
                + (examples - errors) * mpmath.log1p(-mpf(p))
            )  # fmt: skip
            term, total, k = mpmath.exp(log_first), mpf(0), errors
            while term > total * mpf(10) ** -45:
                total += term
                term *= k * (1 - mpf(p)) / (mpf(p) * (examples - k + 1))
                k -= 1
            return total

        exactly = mpf(delta.numerator) / delta.denominator if isinstance(delta, Fraction) else delta
        assert tail(found) <= exactly
        assert tail(math.nextafter(found, 0)) > exactly


def test_monte_carlo_and_pac_bayes_bounds_of_random_draws() -> None:
    draw = random.Random(5)
    with mpmath.workdps(80):
        for _ in range(SETS // 20):
            delta = draw.choice([0.05, log_uniform(draw, 1e-12, 1)])
            values = [random_mean(draw) for _ in range(draw.randint(2, 12))]
            found = outward.monte_carlo_bound(values, delta)
            k, mean = len(values), mpmath.fsum(values) / len(values)
            variance = mpmath.fsum((mpf(value) - mean) ** 2 for value in values) / (k - 1)
            log_term = mpmath.log(4 / mpf(delta))
            bernstein = (
                mean + mpmath.sqrt(2 * variance * log_term / k) + 7 * log_term / (3 * (k - 1))
            )
            by_kl = exact_kl_reaches(mean, found, mpmath.log(2 / mpf(delta)) / k)
            assert found >= bernstein or by_kl or found == 1
            n, kl = draw.randint(1, 10**6), draw.choice([0.0, log_uniform(draw, 1e-9, 1e6)])
            error = random_mean(draw)
            budget = (mpf(kl) + mpmath.log(2 * mpmath.sqrt(n) / mpf(delta))) / n
            assert exact_kl_reaches(error, outward.pac_bayes_bound(error, kl, n, delta), budget)
            alone = outward.test_set_bound(error, n, delta)
            assert exact_kl_reaches(error, alone, mpmath.log(1 / mpf(delta)) / n)


def exact_kl_reaches(mean: mpf, p: float, budget: mpf) -> bool:
    return p == 1 or (p >= mean and exact_kl(mean, p) >= budget)


def test_martingale_bounds_of_random_losses() -> None:
    draw = random.Random(6)
    with mpmath.workdps(60):
        for _ in range(SETS):
            width, tokens = log_uniform(draw, 1e-3, 1e3), int(log_uniform(draw, 1, 1e12))
            mean, confidence = draw.random() * width, log_uniform(draw, 1e-3, 1e9)
            rate = draw.choice(bounds.RATES)
            squares = draw.choice([None, 0.0, draw.random() * tokens * width**2])
            found = outward.martingale_bound(mean, tokens, width, confidence, rate, squares)
            r, w, n = mpf(rate), mpf(width), mpf(tokens)
            if squares is None:
                excess = w * (confidence / r + r * n / 8) / n
                assert azuma_excess(confidence, tokens, width, rate) == pytest.approx(float(excess))
            else:
                scaled = mpf(squares) / w**2
                excess = w * ((-mpmath.log(1 - r) - r) * scaled + confidence) / (r * n)
                again = freedman_excess(confidence, tokens, width, rate, squares)
                assert again == pytest.approx(float(excess), rel=1e-6)
            value = min(w, mean + excess)
            assert value <= found <= value + 4 * math.ulp(width)


def test_betting_bounds_of_random_losses() -> None:
    draw = random.Random(7)
    with mpmath.workdps(60):
        for _ in range(300):
            unit, width = 2.0**-10, draw.choice([1.0, 11.3])
            top = int(draw.choice([width, 0.3 * width]) / unit)
            losses = [draw.randint(0, top) for _ in range(draw.randint(1, 60))]
            rate, confidence = draw.choice(bounds.RATES), log_uniform(draw, 1e-3, 50)
            found = outward.betting_bound(losses, unit, width, confidence, rate)

            def wealth(
                m: float, losses: list[int] = losses, unit: float = unit, rate: float = rate,
                width: float = width,
            ) -> mpf:  # fmt: skip
                stake = mpf(rate) / mpf(width)
                return mpmath.fsum(mpmath.log(1 + stake * (m - x * unit)) for x in losses)

            assert found == width or wealth(found) >= confidence
            assert wealth(math.nextafter(found, 0)) < confidence


def test_risk_gaps_are_rounded_up() -> None:
    draw = random.Random(8)
    with mpmath.workdps(60):
        for _ in range(1000):
            log_complexity = draw.uniform(-60, 300)
            m, margin = draw.randint(1, 10**6), log_uniform(draw, 1e-3, 1e3)
            delta, classes = draw.random() or 0.5, draw.choice([2, 3, 10])
            found = outward.log_risk_gap(
                log_complexity, m, margin=margin, delta=delta, classes=classes
            )
            factor = mpf(1 if classes == 2 else 2 * classes) / mpf(margin)
            confidence = 3 * mpmath.sqrt(mpmath.log(2 / mpf(delta)) / (2 * m))
            value = mpmath.log(2 * factor * mpmath.exp(log_complexity) + confidence)
            assert is_close_above(found, value)


def test_ends_of_balls_are_doubles_outside() -> None:
    with flint.ctx.workprec(128):
        third = ball(1) / 3
    assert Fraction(lower_end(third)) < Fraction(1, 3) < Fraction(upper_end(third))
    assert math.nextafter(lower_end(third), 1) == upper_end(third)
    assert upper_end(ball(0.5)) == lower_end(ball(0.5)) == 0.5
    assert upper_end(ball(10) ** 400) == math.inf
    assert lower_end(ball(10) ** 400) == math.nextafter(math.inf, 0)
    assert upper_end(ball(10) ** -400) == 5e-324
    assert lower_end(-(ball(10) ** -400)) == -5e-324
    assert upper_end(ball(0) / 0) == math.inf


@pytest.mark.parametrize("guess", [0.0, 0.3, 0.7, 1.0])
def test_the_smallest_double_is_found_from_any_guess(guess: float) -> None:
    assert smallest_double(lambda x: x >= 0.4, guess, 0.0, 1.0) == 0.4
    assert smallest_double(lambda x: False, guess, 0.0, 1.0) == 1.0
    assert smallest_double(lambda x: True, guess, 0.25, 1.0) == 0.25


def test_doubles_err_where_the_outward_inverse_does_not() -> None:
    """The faults of the review: a p whose kl falls short of the budget, a tail above delta."""
    with mpmath.workdps(60):
        short = [
            (mean, budget)
            for mean in (0.1, 0.3, 0.5, 0.9)
            for budget in (1e-16, 3e-16, 1e-15, 1e-9)
            if exact_kl(mean, bounds.kl_inverse(mean, budget)) < budget
        ]
        assert short
        for mean, budget in short:
            assert exact_kl(mean, outward.kl_inverse(mean, budget)) >= budget
    above = []
    for delta in (0.05, 1e-10, 3e-16, 1e-100):
        for errors in range(10):
            approximate = bounds.clopper_pearson(errors, 10, delta)
            found = outward.clopper_pearson(errors, 10, delta)
            assert approximate == pytest.approx(found, rel=1e-12)
            assert exact_tail(errors, 10, found) <= Fraction(delta)
            if exact_tail(errors, 10, approximate) > Fraction(delta):
                above.append((errors, delta))
    assert above


def test_arguments_outside_their_domain_are_refused() -> None:
    with pytest.raises(InputError, match="not possible"):
        outward.clopper_pearson(5, 4, 0.1)
    with pytest.raises(InputError, match="rate = 1"):
        outward.martingale_bound(1.0, 10, 2.0, 1.0, 1.0)
    with pytest.raises(InputError, match="0 <= mean <= width"):
        outward.martingale_bound(3.0, 10, 2.0, 1.0, 0.5)
    with pytest.raises(InputError, match="between 0 and the width"):
        outward.betting_bound([5], 1.0, 2.0, 1.0, 0.5)
    with pytest.raises(InputError, match="at least one draw"):
        outward.monte_carlo_bound([], 0.1)
    with pytest.raises(InputError, match="at least one example"):
        outward.test_set_bound(0.1, 0, 0.1)
    assert isinstance(StepSums.of(-0.1, 0.0, 5), StepSums)
