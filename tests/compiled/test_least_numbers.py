"""Numbers below the least normal one: zero inside the kernels, and nowhere else."""

import sys
import threading

import pytest
import torch
from torch import Tensor

from keelback.compiled.decay import exp_
from keelback.compiled.threads import flushing, run_ranges
from keelback.delta import delta_rule
from keelback.ssd import gated_linear_attention, ssd

LEAST = torch.finfo(torch.float32).tiny


def computes_with_them() -> bool:
    least, half = sys.float_info.min, 0.5
    return least * half > 0


def test_the_calling_thread_is_left_as_it_was() -> None:
    assert computes_with_them()
    found = []
    run_ranges(lambda start, stop: found.append(computes_with_them()), 1, 1.0)
    run_ranges(lambda start, stop: found.append(computes_with_them()), 64, 1e6)
    assert not any(found)
    assert computes_with_them()
    with pytest.raises(ZeroDivisionError):
        run_ranges(lambda start, stop: 1 // 0, 1, 1.0)
    assert computes_with_them()


def test_a_thread_that_takes_them_for_zero_goes_on_to() -> None:
    found = []

    def work() -> None:
        torch.set_flush_denormal(True)
        with flushing():
            pass
        found.append(computes_with_them())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_are_zero_or_normal(dtype: torch.dtype) -> None:
    logs = torch.linspace(-800, 0, 10_001, dtype=dtype)
    found = exp_(logs.clone())
    assert bool(((found == 0) | (found >= torch.finfo(dtype).tiny)).all())
    normal = logs.exp() >= 1.001 * torch.finfo(dtype).tiny
    torch.testing.assert_close(found[normal], logs[normal].exp(), rtol=0, atol=0)
    special = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
    torch.testing.assert_close(exp_(special.clone()), special.exp(), equal_nan=True)


@pytest.mark.parametrize("rate", [1.0, 3.0, 10.0, 40.0])
def test_strong_decays_are_those_of_the_definition(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    q, k, v = normal(1, 200, 2, 32), normal(1, 200, 2, 32), normal(1, 200, 2, 32)
    g = -rate * (0.5 + torch.rand(1, 200, 2, generator=generator))
    beta = normal(1, 200, 2).sigmoid()
    for name, call, exact in (
        (
            "delta_rule",
            lambda: delta_rule(q, k, v, g, beta, normalise=True),
            lambda *x: delta_rule(*x, normalise=True, backend="reference"),
        ),
        (
            "gated_linear_attention",
            lambda: gated_linear_attention(q, k, v, g),
            lambda q, k, v, g, beta: gated_linear_attention(q, k, v, g, backend="reference"),
        ),
        (
            "ssd",
            lambda: ssd(v, -g, -torch.ones(2), k, q),
            lambda q, k, v, g, beta: ssd(
                v, -g, -torch.ones(2, dtype=g.dtype), k, q, backend="reference"
            ),
        ),
    ):
        found = call()
        expected = exact(*(x.double() for x in (q, k, v, g, beta)))
        assert float((found.double() - expected).norm() / expected.norm()) < 1e-6, name
        subnormal = (found != 0) & (found.abs() < LEAST)
        assert not bool(subnormal.any()), name
