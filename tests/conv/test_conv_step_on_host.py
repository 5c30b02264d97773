"""The kernel of a convolution's step, compiled for the host, against float64."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_cuda"))

from conv_step_cases import CASES, ConvStep, advanced, require_exact
from host_kernels import COMPILER, host_kernel

from keelback.compiled import cuda_launch

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_launch, "kernel", host_kernel)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_that_of_the_definition(case: ConvStep) -> None:
    require_exact(*case.operands(), case.silu)


def test_operands_may_lie_in_any_way() -> None:
    """As slices of something wider, transposed, and at addresses no piece begins at."""
    given = ConvStep(channels=6, dtype=torch.bfloat16).operands()
    for place, x in enumerate(given):
        assert x is not None
        wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), math.nan, dtype=x.dtype)
        wide[..., 1:-2] = x
        for same in (wide[..., 1:-2], x.mT.contiguous().mT if x.ndim > 1 else x[None].T[:, 0]):
            other: list[Tensor | None] = [*given[:place], same, *given[place + 1 :]]
            require_exact(*other, True)  # type: ignore[arg-type]


def test_an_overwritten_state_is_known_to_be_another() -> None:
    x, state, weight, bias = ConvStep().operands()
    ones = torch.ones_like(state, requires_grad=True)
    readout = (ones * state).sum()
    advanced(x, state, weight, bias, True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        readout.backward()


def test_what_the_kernel_does_not_take_is_left_to_pytorch() -> None:
    x, state, weight, bias = ConvStep().operands()
    assert advanced(x, state[:1].expand(2, -1, -1), weight, bias, True) is None
    for case in (ConvStep(batch=0), ConvStep(past=16), ConvStep(past=0, width=1)):
        assert advanced(*case.operands(), True) is None
