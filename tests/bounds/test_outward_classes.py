"""The newer classes in balls: 10,000 random sets, every reach and output bound enclosed."""

import dataclasses
import functools
import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import pytest
from mpmath import mpf
from random_sets import SETS, is_close_above, log_uniform, random_classes
from written_again import log
from written_classes import DIGITS, Reach, mamba_stack, residual, selective, stack

from keelback.bounds import (
    Ball,
    ClassConstants,
    ComplexConstants,
    DenseConstants,
    MambaBlockConstants,
    ResidualConstants,
    StackConstants,
    _sharpened,
    covered_class,
    outward,
)
from keelback.bounds._covered import AnyConstants, _class_of
from keelback.bounds._numbers import lower_end, upper_end
from keelback.errors import InputError

flint = pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
pytestmark = pytest.mark.usefixtures("unchecked")

Written = Callable[..., tuple[mpf, list[Reach]]]


def random_block(draw: random.Random, c: ClassConstants, d_model: int) -> MambaBlockConstants:
    names = ("B_x", "B_in", "B_g", "B_conv", "B_bias", "B_D")
    norms = {name: draw.choice([0.0, 1.0, *[log_uniform(draw, 1e-6, 1e6)] * 6]) for name in names}
    norms["B_x"] = norms["B_x"] or 1.0
    return MambaBlockConstants(c, d_model=d_model, d_conv=draw.randint(1, 8), **norms)


def small(c: ClassConstants) -> ClassConstants:
    """A layer whose outputs may be the tokens of another one."""
    limits = {"B_u": 3.0, "B_B": 9.0, "B_C": 9.0, "B_w": 9.0}
    norms = {name: min(getattr(c, name) or 1.0, limit) for name, limit in limits.items()}
    return dataclasses.replace(c, **norms, M_B=20.0, M_C=20.0, M_w=20.0)


KINDS = ("complex", "dense", "stack", "block", "blocks", "residual")


def random_sets(seed: int) -> Iterator[tuple[str, AnyConstants, bool, Written]]:
    """A kind, constants of it, whether the embedding is trained, and the class written again."""
    draw = random.Random(seed)
    for number, c in enumerate(random_classes(10 * SETS)):
        kind, embedding = KINDS[number % len(KINDS)], draw.random() < 0.5
        if 0 in (c.B_u, c.B_B, c.B_C, c.B_w):
            continue
        if kind in ("complex", "dense"):
            plain = {name: value for name, value in vars(c).items() if name != "omega"}
            omega = draw.choice([0.0, log_uniform(draw, 1e-9, 1e9)])
            own = (
                DenseConstants(**plain)
                if kind == "dense"
                else ComplexConstants(**plain, omega=omega)
            )
            yield kind, own, embedding, functools.partial(selective, own, embedding=embedding)
            continue
        c, d_model = small(c), draw.randint(1, 99)
        layers = (c, dataclasses.replace(c, B_q=c.B_q / 2, p_hi=c.p_hi + 0.5, B_A=c.B_A * 3))
        blocks = tuple(random_block(draw, layer, d_model) for layer in layers)
        gains = [log_uniform(draw, 1e-3, 1e3) for _ in range(3)]
        whole = ResidualConstants(
            blocks, (gains[0], gains[1]), gains[2], B_e=draw.choice([0.0, gains[0]]),
            B_w=draw.choice([0.0, 2.0, 2.0, 1e-20]), M_w=3.0, eps=log_uniform(draw, 1e-12, 1),
        )  # fmt: skip
        made: dict[str, tuple[AnyConstants, Any, Any]] = {
            "stack": (StackConstants(layers), stack, layers),
            "block": (blocks[0], mamba_stack, blocks[:1]),
            "blocks": (StackConstants(blocks), mamba_stack, blocks),
            "residual": (whole, residual, whole),
        }
        constants, write, read = made[kind]
        yield kind, constants, embedding, functools.partial(write, read, embedding=embedding)


class Etas:
    """In the place of the search for a scale: what it chose at first is chosen again."""

    def __init__(self) -> None:
        self.chosen: list[float] = []
        self.at = 0
        self._search = _sharpened._best_eta

    def __call__(self, *arguments: float) -> float:
        if self.at == len(self.chosen):
            self.chosen.append(self._search(*arguments))
        self.at += 1
        return self.chosen[self.at - 1]


def enclosures(constants: AnyConstants, embedding: bool, etas: Etas) -> dict[str, Any]:
    """The output bound's logarithm and those of all reaches, as balls."""
    with flint.ctx.workprec(256):
        found = _class_of(constants.balls(), 1, 5 if embedding else 0)
    values = {"bound": found.log_bound}
    for index, block in enumerate(found.blocks):
        values[f"{index}"] = block.log_reach
        if isinstance(block, Ball) and block.log_absolute_reach is not None:
            values[f"{index} l1"] = block.log_absolute_reach
    return values


def written_values(written: Written, etas: Etas) -> dict[str, mpf]:
    bound, reaches = written(etas=list(etas.chosen))
    values = {"bound": bound}
    for index, (own, other) in enumerate(reaches):
        values[f"{index}"] = own
        if other is not None:
            values[f"{index} l1"] = other
    return values


def holds(found: Any, value: mpf) -> bool:
    """Whether the ball of a logarithm holds that of the value, and closely where it says much."""
    lower, upper = lower_end(found), upper_end(found)
    exact = log(value)
    if exact == -mpmath.inf:
        return upper == -math.inf
    close = found.rel_accuracy_bits() < 64 or is_close_above(upper, exact)
    return lower <= exact <= upper and close


@pytest.mark.slow
def test_reaches_of_random_classes_of_the_newer_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each set the output bound and three reaches, as a logarithm is what takes long."""
    draw = random.Random(4)
    tried = dict.fromkeys(KINDS, 0)
    for kind, constants, embedding, written in random_sets(3):
        etas = Etas()
        monkeypatch.setattr(_sharpened, "_best_eta", etas)
        try:
            found = enclosures(constants, embedding, etas)
        except InputError:
            continue  # Tokens of the second layer beyond 1e60.
        finally:
            monkeypatch.undo()
        with mpmath.workdps(DIGITS):
            expected = written_values(written, etas)
            assert set(found) == set(expected), constants
            for name in {"bound", *draw.choices(list(found), k=3)}:
                assert holds(found[name], expected[name]), (name, constants)
        tried[kind] += 1
        if sum(tried.values()) == SETS:
            break
    assert sum(tried.values()) == SETS
    assert min(tried.values()) > SETS / 20


def exact_count(blocks: list[Any], reaches: list[Reach], covers: Any, radius: mpf) -> mpf:
    """Logarithm of the number of centres of these covers, at a radius in units of the bound."""
    shares = [mpmath.exp(cover.log_radius) for cover in covers]
    total = mpf(0)
    for cover, share in zip(covers, shares, strict=True):
        block, (reach, absolute) = blocks[cover.block], reaches[cover.block]
        own = share * radius / mpmath.fsum(shares)
        if not isinstance(block, Ball):
            total += block.coordinates * mpmath.log1p(reach / own)
        elif cover.cover == "maurey":
            assert absolute is not None
            ratio = absolute / own
            total += block.copies * ratio**2 * mpmath.log(2 * block.coordinates + 1)
        else:
            total += block.copies * block.coordinates * mpmath.log1p(2 * reach / own)
    return total


def test_printed_counts_of_random_classes_of_the_newer_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the constants to the count of a cover, which every covering bound is made of."""
    draw = random.Random(6)
    tried = 0
    for _, constants, embedding, written in random_sets(5):
        etas = Etas()
        monkeypatch.setattr(_sharpened, "_best_eta", etas)
        margin, radius = log_uniform(draw, 1e-3, 1e3), log_uniform(draw, 1e-6, 0.5)
        try:
            approximate, _ = covered_class(constants, vocab_size=5 if embedding else 0)

            def in_balls(c: Any = constants, e: bool = embedding, etas: Etas = etas) -> Any:
                etas.at = 0
                return _class_of(c.balls(), 1, 5 if e else 0)

            found = outward.covering_cover(
                approximate, in_balls, radius=radius, margin=margin, classes=2
            )
        except InputError:
            continue
        finally:
            monkeypatch.undo()
        tried += 1
        with mpmath.workdps(DIGITS):
            bound, reaches = written(etas=list(etas.chosen))
            if bound == 0:
                assert found.log_count == 0
                continue
            relative = mpf(radius) * mpf(margin) / bound
            value = exact_count(list(approximate.blocks), reaches, found.covers, relative)
            if value > sys.float_info.max:
                assert found.log_count == math.inf
            else:
                least = max(value * (1 + mpf(2) ** -50), mpf(5e-324))
                assert value <= found.log_count <= least, (value, found, constants)
        if tried == SETS // 100:
            break
    assert tried == SETS // 100
