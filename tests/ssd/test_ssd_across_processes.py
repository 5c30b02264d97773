"""One sequence over several processes by heads, against the scan of the whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from keelback.errors import InputError
from keelback.ssd import ssd, ssd_across
from scans_across import (
    Found,
    assert_parts_of_one_scan,
    found_by_processes,
    machines,
    part_found,
)

PARTS = (37, 1, 42)
CASES = {
    "plain": {},
    "options": {"D": True, "z": True, "bias": True, "initial": True},
    "reset": {"reset": [(0, 40)], "initial": True, "z": True},
    "resets where parts begin": {"reset": [(0, 37), (1, 38), (1, 60)], "initial": True},
    "growing": {"growing": True, "initial": True},
    "forgetful": {"forgetful": True, "initial": True},
    "limits": {"limit": (0.1, 0.3), "initial": True},
    "from zeros": {"initial": True, "zeros": True},
}
ALONG = ("x", "dt", "B", "C", "z", "reset")  # cut along the length
SUMMED = ("A", "D", "dt_bias")
BATCH, HEADS, HEAD_DIM, GROUPS, STATE = 2, 4, 3, 2, 5


def make(case: str, length: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Operands of the whole, and gradients of its output and last states."""
    generator = torch.Generator().manual_seed(0)
    on: dict[str, Any] = CASES[case]

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    operands = {
        "x": normal(BATCH, length, HEADS, HEAD_DIM),
        "dt": normal(BATCH, length, HEADS) / 2,
        "A": -0.2 * normal(HEADS).abs(),
        "B": normal(BATCH, length, GROUPS, STATE),
        "C": normal(BATCH, length, GROUPS, STATE),
    }
    if "growing" in on:
        operands["A"] = -operands["A"] / 2
    if "forgetful" in on:
        operands["A"] = operands["A"] * 20 - 100
    if "D" in on:
        operands |= {"D": normal(HEADS), "z": normal(BATCH, length, HEADS, HEAD_DIM)}
        operands["dt_bias"] = normal(HEADS)
    if "initial" in on:
        operands["initial_states"] = normal(BATCH, HEADS, HEAD_DIM, STATE)
    if "zeros" in on:
        operands["initial_states"].zero_()
    if "reset" in on:
        operands["reset"] = torch.zeros(BATCH, length, dtype=torch.bool)
        for row, step in on["reset"]:
            operands["reset"][row, min(step, length - 1)] = True
    gradients = normal(BATCH, length, HEADS, HEAD_DIM), normal(BATCH, HEADS, HEAD_DIM, STATE)
    return operands, *gradients


def over(scan: Callable[..., Any], case: str) -> Callable[..., Any]:
    limit = CASES[case].get("limit", (0.0, float("inf")))
    return partial(scan, dt_softplus=True, dt_limit=limit, return_final_states=True)


def scan_part(rank: int, case: str, parts: tuple[int, ...], device: str) -> dict[str, Tensor]:
    """What process `rank` finds."""
    made = make(case, sum(parts))
    return part_found(over(ssd_across, case), made, ALONG, rank, parts, device)


@pytest.fixture(scope="module", params=machines(PARTS))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return found_by_processes(tmp_path_factory.mktemp("across"), Path(__file__), request.param)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_one_scan(case: str, found: Found) -> None:
    made = make(case, sum(PARTS[: len(found)]))
    parts = [process[case] for process in found]
    whole = partial(over(ssd, case), backend="reference")
    assert_parts_of_one_scan(whole, made, parts, ALONG, SUMMED)


@pytest.fixture
def alone() -> Any:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_halves_are_added_up_in_float32(dtype: torch.dtype) -> None:
    operands, _, _ = make("options", 50)
    halves = {name: x.to(dtype) for name, x in operands.items()}
    y, final = ssd_across(**halves, dt_softplus=True, return_final_states=True)
    exact, exact_final = ssd(
        **{name: x.double() for name, x in halves.items()},
        dt_softplus=True, return_final_states=True, backend="reference",
    )  # fmt: skip
    assert (y.dtype, final.dtype) == (dtype, torch.float32)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=20 * tolerance)
    torch.testing.assert_close(final.double(), exact_final, rtol=tolerance, atol=20 * tolerance)


@pytest.mark.usefixtures("alone")
def test_growth_that_overflows_leaves_zeros_alone() -> None:
    """States grow by e^4 a step: finite over a chunk, not over all of the length."""
    operands, _, _ = make("from zeros", 400)
    operands["A"] = torch.ones_like(operands["A"])
    operands["dt"] = torch.full_like(operands["dt"], 4)
    operands["x"][:, :-3] = 0
    C = operands["C"].requires_grad_()
    y = ssd_across(**operands)
    expected = ssd(**operands)
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y, expected)
    for one, other in zip(
        torch.autograd.grad(y.sum(), C), torch.autograd.grad(expected.sum(), C), strict=True
    ):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("alone")
def test_growth_that_overflows_after_a_reset_is_not_felt() -> None:
    """What was before the part is forgotten in step 30, and would overflow after step 88."""
    operands, _, _ = make("from zeros", 120)
    operands = {name: x.float() for name, x in operands.items()}
    operands |= {"A": torch.ones(HEADS), "dt": torch.ones(BATCH, 120, HEADS)}
    operands["initial_states"].fill_(1)
    leaves = [x.requires_grad_() for x in operands.values()]
    reset = torch.zeros(BATCH, 120, dtype=torch.bool)
    reset[:, 30::30] = True
    y, expected = (scan(**operands, reset=reset) for scan in (ssd_across, ssd))
    torch.testing.assert_close(y, expected)
    for one, other in zip(
        torch.autograd.grad(y[:, 60:].sum(), leaves, allow_unused=True),
        torch.autograd.grad(expected[:, 60:].sum(), leaves, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_are_rounded_no_more_than_operands(dtype: torch.dtype) -> None:
    """States of 1e5, which float16 does not hold; and outputs in float32 beside maps in half."""
    operands, _, _ = make("options", 8)
    operands = {name: x.float() for name, x in operands.items()}
    operands["initial_states"] *= 1e5
    operands["C"] = operands["C"].to(dtype)
    y, expected = (scan(**operands, dt_softplus=True) for scan in (ssd_across, ssd))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1.0)


@pytest.mark.usefixtures("alone")
def test_an_empty_batch_and_no_steps() -> None:
    operands, _, _ = make("options", 6)
    none = {name: x[:, :0] if name in ALONG else x for name, x in operands.items()}
    y, final = ssd_across(**none, return_final_states=True)
    assert y.shape == (BATCH, 0, HEADS, HEAD_DIM)
    torch.testing.assert_close(final, operands["initial_states"].float().to(final.dtype))
    rowless = {
        name: x[:0] if name in (*ALONG, "initial_states") else x for name, x in operands.items()
    }
    assert ssd_across(**rowless).shape == (0, 6, HEADS, HEAD_DIM)


@pytest.mark.usefixtures("alone")
def test_what_it_refuses() -> None:
    operands, _, _ = make("options", 6)
    with pytest.raises(InputError, match="initial_states"):
        ssd_across(**{**operands, "initial_states": operands["initial_states"][:, :1]})
    with pytest.raises(InputError, match="not in the group"):
        ssd_across(**operands, group=dist.GroupMember.NON_GROUP_MEMBER)
    operands["x"].requires_grad_()
    (dx,) = torch.autograd.grad(ssd_across(**operands).sum(), operands["x"], create_graph=False)
    assert dx.shape == operands["x"].shape
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(ssd_across(**operands).sum(), operands["x"], create_graph=True)


def test_without_processes_it_is_refused() -> None:
    operands, _, _ = make("plain", 5)
    with pytest.raises(InputError, match="no processes to scan across"):
        ssd_across(**operands)
