"""Derivatives in forward mode: operators refuse what they would lose, single steps have them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from keelback.conv import causal_conv1d, causal_conv1d_update
from keelback.delta import delta_rule, delta_rule_step, generalised_delta_rule
from keelback.recurrence import diagonal_recurrence, mlstm, wkv
from keelback.scan import mamba_inner, selective_scan, selective_scan_step
from keelback.ssd import gated_linear_attention, mamba3, ssd, ssd_step

ROWS, LENGTH, CHANNELS, STATES = 2, 7, 4, 3


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


u, delta, A = random(ROWS, LENGTH, CHANNELS), torch.rand(ROWS, LENGTH, CHANNELS), -torch.ones(4, 3)
B = random(ROWS, LENGTH, 1, STATES)
x, dt, rates = random(ROWS, LENGTH, 2, 4), torch.rand(ROWS, LENGTH, 2), -torch.ones(2)
k, v, g = random(ROWS, LENGTH, 2, 3), random(ROWS, LENGTH, 2, 4), -torch.rand(ROWS, LENGTH, 2)
taps, inputs = random(CHANNELS, 3), random(ROWS, LENGTH, 2, 1, 4)
maps = random(ROWS, LENGTH, 1, 1, 4)

OPERATORS: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "selective_scan": (lambda u, **o: selective_scan(u, delta, A, B, B, **o), u),
    "ssd": (lambda x, **o: ssd(x, dt, rates, B, B, **o), x),
    "delta_rule": (lambda v, **o: delta_rule(k, k, v, g, -g, **o), v),
    "generalised_delta_rule": (
        lambda v, **o: generalised_delta_rule(k, k, v, k, k, -k.abs(), **o),
        v,
    ),
    "gated_linear_attention": (lambda v, **o: gated_linear_attention(k, k, v, g, **o), v),
    "causal_conv1d": (lambda u, **o: causal_conv1d(u, taps, **o), u),
    "diagonal_recurrence": (lambda u, **o: diagonal_recurrence(delta, u, **o), u),
    "mlstm": (lambda v, **o: mlstm(k, k, v, g, g, **o)[0], v),
    "mamba3": (lambda x, **o: mamba3(x, dt, -dt, maps, maps, dt, **o)[0], inputs),
}
ones = torch.ones
now = {name: one[:, 0] for name, one in (("u", u), ("d", delta), ("B", B), ("x", x), ("k", k))}
STEPS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "selective_scan": (
        lambda u: selective_scan_step(ones(2, 4, 3), u, now["d"], A, now["B"], now["B"])[0],
        now["u"],
    ),
    "ssd": (
        lambda dt: ssd_step(ones(2, 2, 4, 3), now["x"], dt, rates, now["B"], now["B"])[0],
        dt[:, 0],
    ),
    "delta_rule": (
        lambda v: delta_rule_step(ones(2, 2, 3, 4), now["k"], now["k"], v, g[:, 0], -g[:, 0])[0],
        v[:, 0],
    ),
    "causal_conv1d": (lambda u: causal_conv1d_update(u, ones(2, 4, 3), taps), now["u"]),
}


def tangent(function: Callable[..., Tensor], at: Tensor, **options: Any) -> Tensor:
    with forward_ad.dual_level():
        found = function(forward_ad.make_dual(at, torch.ones_like(at)), **options)
        along = forward_ad.unpack_dual(found).tangent
        assert along is not None
        return along


@pytest.mark.parametrize("name", OPERATORS)
def test_the_compiled_operators_refuse_it_and_name_the_reference(name: str) -> None:
    function, at = OPERATORS[name]
    with pytest.raises(NotImplementedError, match=r"in forward mode.* backend='reference'"):
        tangent(function, at)
    with pytest.raises(NotImplementedError, match="in forward mode"):
        torch.func.jvp(function, (at,), (torch.ones_like(at),))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_reference_has_it(name: str) -> None:
    function, at = OPERATORS[name]

    def moved(by: float) -> Tensor:
        moved_by: Tensor = function(at + by, backend="reference")
        return moved_by

    difference = (moved(0.01) - moved(-0.01)) / 0.02
    torch.testing.assert_close(
        tangent(function, at, backend="reference"), difference, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_without_a_tangent_nothing_is_refused(name: str) -> None:
    function, at = OPERATORS[name]
    with forward_ad.dual_level():
        found = function(at)
    torch.testing.assert_close(found, function(at))


def test_what_is_made_of_operators_refuses_it_too() -> None:
    rest = taps, random(4), random(8, 4), random(4, 2), A, random(4), random(4)
    with pytest.raises(NotImplementedError, match="in forward mode"):
        tangent(lambda u: mamba_inner(u, u, *rest), u)
    with pytest.raises(NotImplementedError, match="in forward mode"):
        tangent(lambda u: wkv(u, u, -torch.ones(4), torch.ones(4))[0], u)


@pytest.mark.parametrize("name", STEPS)
def test_single_steps_have_it(name: str) -> None:
    function, at = STEPS[name]
    difference = (function(at + 0.01) - function(at - 0.01)) / 0.02
    torch.testing.assert_close(tangent(function, at), difference, rtol=1e-3, atol=1e-3)
