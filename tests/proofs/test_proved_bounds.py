"""The output bound and the sensitivities that Coq speaks of are the code's (docs/bounds.md)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from coq_bounds import (
    class_absolute_sum,
    class_decaying_sum,
    class_output_sum,
    gain,
    largest_step,
    output,
    output_bound,
    relative_sum,
    scale,
    scale_length,
    smallest_step,
    softplus,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from keelback.bounds import ClassConstants, log_output_bound, log_step_factor, selective_blocks
from keelback.scan import selective_scan

SMALL = ClassConstants(
    B_u=1.3, s_A=-0.2, B_A=3.0, B_B=1.5, M_B=2.4, B_C=0.8, M_C=1.5, B_q=0.9, M_q=1.2,
    B_w=1.1, M_w=1.5, p_lo=-1.0, p_hi=0.5, T=5, m=50, d=2, N=3,
)  # fmt: skip
CLASSES = st.builds(
    lambda s_A, B_q, B_u, T: replace(SMALL, s_A=s_A, B_q=B_q, B_u=B_u, T=T),
    st.one_of(st.just(0.0), st.floats(-2, 0.5)),
    st.floats(0.05, 1.2),
    st.floats(0.1, 2),
    st.integers(2, 30),
)
Member = dict[str, np.ndarray]


def _member(c: ClassConstants, generator: np.random.Generator) -> tuple[Member, np.ndarray]:
    """A random member of the class with norms at their limits, and a sequence."""

    def unit(*shape: int) -> np.ndarray:
        x = generator.standard_normal(shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def spectral(rows: int, columns: int) -> np.ndarray:
        x = generator.standard_normal((rows, columns))
        return x / np.linalg.norm(x, 2)

    member = {
        "w": c.B_w * unit(c.d),
        "W_B": c.B_B * spectral(c.N, c.d),
        "W_C": c.B_C * spectral(c.N, c.d),
        "A": generator.uniform(-c.B_A, c.s_A, (c.d, c.N)),
        "p": generator.uniform(c.p_lo, c.p_hi, ()),
        "q": c.B_q * unit(c.d),
    }
    return member, c.B_u * unit(c.T, c.d)


def _steps(f: Member, u: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, f["p"] + u @ f["q"])


def _proved_logit(c: ClassConstants, f: Member, u: np.ndarray) -> float:
    """z by the formula of the docs, as transcribed from Coq."""
    values = [[mpf(x) for x in row] for row in u]
    keys = [[mpf(x) for x in row] for row in u @ f["W_B"].T]
    query, A, w = u[-1] @ f["W_C"].T, f["A"], f["w"]
    return float(output(c.d, c.N, c.T, w, query, A, keys, values, [*map(mpf, _steps(f, u))]))


def _scanned_logit(f: Member, u: np.ndarray) -> float:
    """z by the selective scan of keelback."""
    x, keys, queries = (torch.as_tensor(v)[None] for v in (u, u @ f["W_B"].T, u @ f["W_C"].T))
    y = selective_scan(
        x,
        torch.as_tensor(_steps(f, u))[None, :, None],
        torch.as_tensor(f["A"]),
        keys[:, :, None],
        queries[:, :, None],
    )
    return float(y[0, -1] @ torch.as_tensor(f["w"]))


@pytest.mark.parametrize("s_A", [-1.0, 0.0, 0.4])
def test_the_unrolled_output_is_the_scan(s_A: float) -> None:
    c = replace(SMALL, s_A=s_A)
    for seed in range(5):
        f, u = _member(c, np.random.default_rng(seed))
        assert _scanned_logit(f, u) == pytest.approx(_proved_logit(c, f, u), rel=1e-10)


@given(CLASSES)
@settings(max_examples=60, deadline=None)
def test_steps_are_those_of_the_code(c: ClassConstants) -> None:
    assert c.log_largest_step == pytest.approx(float(mp.log(largest_step(c))), abs=1e-12)
    assert c.log_smallest_step == pytest.approx(float(mp.log(smallest_step(c))), abs=1e-12)
    f, u = _member(c, np.random.default_rng(c.T))
    assert (np.log(_steps(f, u)) <= c.log_largest_step + 1e-12).all()
    assert (np.log(_steps(f, u)) >= c.log_smallest_step - 1e-12).all()
    # e^softplus(x) = 1 + e^x: the published step factor is a power of it.
    extreme = mpf(c.p_lo) - mpf(c.B_q) * c.B_u if c.s_A < 0 else mpf(c.p_hi) + mpf(c.B_q) * c.B_u
    assert log_step_factor(c) == pytest.approx(float(c.s_A * softplus(extreme)), abs=1e-12)


@given(CLASSES)
@settings(max_examples=60, deadline=None)
def test_no_member_exceeds_the_output_bound(c: ClassConstants) -> None:
    assert log_output_bound(c) == pytest.approx(float(mp.log(output_bound(c))), abs=1e-9)
    for seed in range(5):
        f, u = _member(c, np.random.default_rng(seed))
        assert abs(_scanned_logit(f, u)) <= float(output_bound(c)) * (1 + 1e-12)


@given(CLASSES)
@settings(max_examples=60, deadline=None)
def test_the_attaining_member_attains_the_bound_in_the_scan(c: ClassConstants) -> None:
    first, corner = np.eye(c.d)[0], np.eye(c.N, c.d)[:, :1] * np.eye(c.d)[:1]
    f = {
        "w": c.B_w * first,
        "W_B": c.B_B * corner,
        "W_C": c.B_C * corner,
        "A": np.full((c.d, c.N), c.s_A),
        "p": np.array(c.p_hi),
        "q": c.B_q * first,
    }
    z = _scanned_logit(f, np.tile(c.B_u * first, (c.T, 1)))
    assert math.log(z) == pytest.approx(log_output_bound(c), abs=1e-9)


@given(st.floats(-30, 30), st.floats(-2, 2))
@settings(max_examples=200, deadline=None)
def test_softplus_moves_by_its_own_size(x: float, h: float) -> None:
    before, after = softplus(mpf(x)), softplus(mpf(x) + h)
    rounding = mpf(10) ** -30
    assert mp.exp(-abs(h)) * before * (1 - rounding) <= after
    assert after <= mp.exp(abs(h)) * before * (1 + rounding)
    slope = 1 - mp.exp(-before)
    assert 0 < slope <= min(before, 1)
    assert abs(slope - 1 / (1 + mp.exp(-mpf(x)))) < mpf(10) ** -25


@given(CLASSES)
@settings(max_examples=25, deadline=None)
def test_the_scale_of_the_states_is_that_of_the_code(c: ClassConstants) -> None:
    """z moves by S2 + eta S3 per unit of phi_eta; the best eta of the code's grid is taken."""
    states = selective_blocks(c)[3]
    assert states.coordinates == c.d * c.N
    B_A, s_A = mpf(c.B_A), mpf(c.s_A)
    s2, s3 = class_decaying_sum(c), class_absolute_sum(c)
    grid = [mpf(eta) for eta in np.geomspace(1e-60, 1e60, 961)] + [mpf(0)] * (c.s_A < 0)
    with mp.workdps(100):
        moves = [(s2 + eta * s3) * scale_length(B_A, s_A, eta) for eta in grid]
    moves.append(s3 * (B_A + s_A))
    smallest = float(mp.log(min(moves) / class_output_sum(c) / 2))
    assert states.log_reach == pytest.approx(smallest, abs=1e-9)
    for eta in (0.01, 1.0, 50.0):
        length = scale(mpf(eta), mpf(c.s_A)) - scale(mpf(eta), -mpf(c.B_A))
        assert float(length) == pytest.approx(
            float(scale_length(mpf(c.B_A), mpf(c.s_A), mpf(eta))), abs=1e-20
        )
        for a in (-2.0, -0.3, 0.2):
            slope = mp.diff(lambda x, eta=eta: scale(mpf(eta), x), mpf(a))
            assert float(slope) == pytest.approx(1 / (eta + max(-a, 0)), rel=1e-9)


@given(CLASSES)
@settings(max_examples=60, deadline=None)
def test_reaches_are_those_of_the_code(c: ClassConstants) -> None:
    """Sensitivity (Lemma 5) times the radius of the block, over the output bound."""
    head, W_B, W_C, _, p, q, tokens = selective_blocks(c, vocab_size=3)
    b, s1, gate = output_bound(c), class_output_sum(c), c.B_w * gain(c) * relative_sum(c)
    cube = mpf(c.B_u) ** 3
    through_tokens = 3 * s1 + c.B_u * c.B_q * relative_sum(c)
    moved = {
        "w": (head, gain(c) * s1 * c.B_w),
        "W_B": (W_B, c.B_w * c.B_C * cube * s1 * c.B_B),
        "W_C": (W_C, c.B_w * c.B_B * cube * s1 * c.B_C),
        "p": (p, gate * (mpf(c.p_hi) - c.p_lo) / 2),
        "q": (q, c.B_u * gate * c.B_q),
        "tokens": (tokens, mpf(c.B_w) * c.B_B * c.B_C * c.B_u**2 * through_tokens * c.B_u),
    }
    for name, (block, move) in moved.items():
        assert block.log_reach == pytest.approx(float(mp.log(move / b)), abs=1e-9), name


@pytest.mark.parametrize("s_A", [-1.0, -0.1, 0.0, 0.3])
def test_members_move_no_further_than_proved(s_A: float) -> None:
    """Lemmas 4 and 5 on pairs of members that differ in one parameter, or in the tokens."""
    c = replace(SMALL, s_A=s_A, T=9)
    s1, s3 = float(class_output_sum(c)), float(class_absolute_sum(c))
    s2, relative = float(class_decaying_sum(c)), float(relative_sum(c))
    cube, G = c.B_u**3, float(gain(c))
    tokens = c.B_w * c.B_B * c.B_C * c.B_u**2 * (3 * s1 + c.B_u * c.B_q * relative)
    eta = 0.3
    on_scale = np.vectorize(lambda a: float(scale(mpf(eta), mpf(a))))

    def distance(name: str, x: np.ndarray, y: np.ndarray) -> float:
        if name == "A":
            return float(np.abs(on_scale(x) - on_scale(y)).max())
        return float(np.linalg.norm(x - y, 2) if x.ndim == 2 else np.linalg.norm(x - y))

    proved = {
        "w": G * s1,
        "W_B": c.B_w * c.B_C * cube * s1,
        "W_C": c.B_w * c.B_B * cube * s1,
        "A": c.B_w * G * (s2 + eta * s3),
        "p": c.B_w * G * relative,
        "q": c.B_u * c.B_w * G * relative,
    }
    for seed in range(40):
        generator = np.random.default_rng(seed)
        f, u = _member(c, generator)
        g, v = _member(c, generator)
        z = _scanned_logit(f, u)
        share = generator.uniform(0, 1)
        for name, constant in proved.items():
            # A convex set holds everything between two of its points.
            between = f | {name: (1 - share) * f[name] + share * g[name]}
            moved = abs(_scanned_logit(between, u) - z)
            assert moved <= constant * distance(name, f[name], between[name]) * (1 + 1e-9), name
            if name == "A":
                plain = np.abs(f["A"] - between["A"]).max()
                assert moved <= c.B_w * G * s3 * plain * (1 + 1e-9)
        w = (1 - share) * u + share * v
        largest = np.linalg.norm(u - w, axis=1).max()
        assert abs(_scanned_logit(f, w) - z) <= tokens * largest * (1 + 1e-9)
