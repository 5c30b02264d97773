"""The CPU kernel of a decoding step against float64 by PyTorch's operations."""

import math
from typing import Any

import pytest
import torch
from ssd_cases import relative_error
from ssd_step_cases import BF16, CASES, F32, TOLERANCE, exact_step, make_step
from torch import Tensor

from keelback.compiled import threads
from keelback.compiled.layouts import layouts_of, signature_of
from keelback.ssd import _op, ssd_step
from keelback.ssd._operands import Operands
from keelback.ssd.cpu import prepare_step, step

F64 = torch.float64


def run(given: dict[str, Any], in_place: bool) -> tuple[Tensor, Tensor] | None:
    """Output and new states by the kernel, if it takes the operands."""
    states, *tensors, softplus, (low, high) = given.values()
    operands = Operands(*tensors, states)
    layouts: Any = Operands(*layouts_of(signature_of(operands)))
    call = prepare_step(layouts, (softplus, low, high), in_place)
    return call and call.forward(operands)


def of_one_dtype(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: x.to(dtype) if isinstance(x, Tensor) else x for n, x in given.items()}


def require_exact(given: dict[str, Any], in_place: bool) -> None:
    expected, before = exact_step(given), given["states"].clone()
    found = run(given, in_place)
    assert found is not None
    assert (found[1] is given["states"]) == in_place
    assert in_place or torch.equal(given["states"], before)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == before.dtype
        assert relative_error(ours, exact) < (TOLERANCE[F32] if ours.dtype == F32 else 1e-14)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_definition(case: str, dtype: torch.dtype) -> None:
    for in_place in (False, True):
        require_exact(of_one_dtype(make_step(**CASES[case]), dtype), in_place)


def test_without_softplus_and_with_a_step_that_is_no_number() -> None:
    require_exact({**make_step(), "dt_softplus": False}, False)
    given = make_step()
    given["dt"][0, 1] = math.nan
    found, expected = ssd_step(**given), exact_step(given)
    assert torch.equal(found[0].isnan(), expected[0].isnan())
    assert found[0].isnan().any()


def test_operands_may_lie_in_any_way_but_states_are_neighbours() -> None:
    given = make_step(D="number", states=20)
    for name, x in given.items():
        if not isinstance(x, Tensor):
            continue
        wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), math.nan)
        wide[..., 1:-2] = x
        require_exact({**given, name: wide[..., 1:-2]}, name == "states")
        turned = x.mT.contiguous().mT if x.ndim > 1 else x[None].T[:, 0]
        other = {**given, name: turned}
        if name in ("states", "B", "C") and not turned.is_contiguous():
            assert run(other, False) is None
            torch.testing.assert_close(ssd_step(**other), ssd_step(**given))
        else:
            require_exact(other, False)


def test_two_threads_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = make_step(batch=5, heads=8, head_dim=40, states=130)
    one = run(given, False)
    monkeypatch.setattr(step, "_PER_MICROSECOND", 1e-3)
    monkeypatch.setattr(threads, "thread_count", lambda: 2)
    two = run(given, False)
    assert one is not None
    assert two is not None
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_half_precision_beside_states_in_float32_is_widened_for_the_kernel() -> None:
    given = make_step(dtype=BF16, parameters=BF16)
    y, after = ssd_step(**given)
    wide_y, wide_after = ssd_step(**of_one_dtype(given, F32))
    assert torch.equal(y, wide_y.to(BF16))
    assert torch.equal(after, wide_after)
    states, *tensors, softplus, (low, high) = given.values()
    operands = Operands(*tensors, states)
    in_place = _op.step(operands, (softplus, low, high), in_place=True)
    assert in_place[1] is states
    assert torch.equal(states, after)


def test_overwritten_states_are_known_to_be_others() -> None:
    given = make_step()
    weight = torch.ones_like(given["states"], requires_grad=True)
    readout = (weight * given["states"]).sum()
    run(given, True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        readout.backward()


def test_what_the_kernel_does_not_take() -> None:
    given = make_step()
    repeated = {**given, "states": given["states"][:1].expand(3, -1, -1, -1)}
    assert run(repeated, True) is None
    require_exact(repeated, False)
    for other in (make_step(batch=0), make_step(dtype=BF16), make_step(kept=BF16)):
        assert run(other, False) is None
        y, after = ssd_step(**other)
        assert (y.shape, after.shape) == (other["x"].shape, other["states"].shape)
