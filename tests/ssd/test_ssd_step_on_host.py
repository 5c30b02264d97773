"""The kernel of a decoding step, compiled for the host, against float64."""

import math
from typing import Any

import pytest
import torch
from host_kernels import COMPILER, host_kernel
from ssd_step_cases import BF16, CASES, F32, make_step, require_exact, run_step

from keelback.compiled import cuda_launch
from keelback.ssd.cuda import step

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_launch, "kernel", host_kernel)
    monkeypatch.setattr(step, "processors_of", lambda device: 0)


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_definition(case: str) -> None:
    for in_place in (False, True):
        require_exact(make_step(**CASES[case]), in_place)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_operands_may_lie_in_any_way(dtype: torch.dtype) -> None:
    """As slices of something wider, transposed, and at addresses no pack begins at."""
    given = make_step(dtype=dtype, D="number", states=8)
    for name, x in given.items():
        if not isinstance(x, torch.Tensor):
            continue
        wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), math.nan, dtype=x.dtype)
        wide[..., 1:-2] = x
        for same in (wide[..., 1:-2], x.mT.contiguous().mT if x.ndim > 1 else x[None].T[:, 0]):
            require_exact({**given, name: same}, name == "states")


def test_an_infinite_input_is_skipped_by_nothing_where_there_is_no_skip() -> None:
    given = make_step(D=None, z=False)
    given["x"][0, 0, 0] = math.inf
    given["C"][:] = given["B"][:] = 1.0
    found = run_step(given, True)
    assert found is not None
    assert found[0][0, 0, 0] == math.inf
    assert torch.isfinite(found[0][1:]).all()


def test_overwritten_states_are_known_to_be_others() -> None:
    given = make_step()
    weight = torch.ones_like(given["states"], requires_grad=True)
    readout = (weight * given["states"]).sum()
    run_step(given, True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        readout.backward()


def test_what_the_kernel_does_not_take_is_left_to_pytorch() -> None:
    given = make_step()
    double = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    others: list[dict[str, Any]] = [
        double,
        {**given, "x": given["x"].to(BF16)},
        make_step(states=257),
        make_step(batch=0),
    ]
    for other in others:
        assert run_step(other, False) is None
    repeated = {**given, "states": given["states"][:1].expand(3, -1, -1, -1)}
    assert run_step(repeated, True) is None
    require_exact(repeated, False)


def test_threads_take_several_numbers_only_where_enough_threads_remain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[tuple[int, int]] = []

    class Recorder:
        def __init__(self, rows: int) -> None:
            self.rows = rows

        def launch(self, blocks: int, threads: int, arguments: bytes) -> None:
            taken.append((self.rows, blocks * threads))

    monkeypatch.setattr(cuda_launch, "kernel", lambda name, told, device: Recorder(told.rows))
    monkeypatch.setattr(step, "processors_of", lambda device: 132)
    for batch, states in ((1, 128), (4, 128), (16, 128), (16, 256)):
        run_step(make_step(batch, 24, 64, states, dtype=BF16), True)
    assert taken == [(1, 49152), (2, 98304), (4, 196608), (2, 393216)]
