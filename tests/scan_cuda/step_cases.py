"""Decoding steps with every option."""

from typing import Any

import torch
from cuda_cases import relative_error
from torch import Tensor

from keelback.compiled.layouts import layouts_of, signature_of
from keelback.scan import selective_scan_step
from keelback.scan._operands import Operands, require_step
from keelback.scan.cuda.step import prepare_step

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64


def make_step(
    batch: int = 3,
    channels: int = 12,
    states: int = 16,
    groups: int = 1,
    dtype: torch.dtype = F32,
    kept: torch.dtype | None = None,
    D: torch.dtype | bool = True,
    bias: torch.dtype | bool = True,
    z: bool = True,
    shared_delta: bool = False,
) -> dict[str, Any]:
    """The operands of a step; D, bias and kept are dtypes where they are not the computing one."""
    generator = torch.Generator().manual_seed(0)
    real = F64 if dtype == F64 else F32

    def normal(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator, dtype=F64).to(dtype)

    def parameter(given: torch.dtype | bool) -> Tensor | None:
        return normal(channels, dtype=real if given is True else given) if given else None

    return {
        "state": normal(batch, channels, states, dtype=kept or real),
        "u": normal(batch, channels),
        "delta": normal(batch, 1 if shared_delta else channels),
        "A": -normal(channels, states, dtype=real).abs(),
        "B": normal(batch, groups, states),
        "C": normal(batch, groups, states),
        "D": parameter(D),
        "z": normal(batch, channels) if z else None,
        "delta_bias": parameter(bias),
    }


def run_step(
    state: Tensor, delta_softplus: bool, in_place: bool, **operands: Any
) -> tuple[Tensor, Tensor] | None:
    """Output and new state by the kernel, if it takes the operands."""
    given = Operands(**operands, initial_state=state)
    require_step(given)
    layouts: Any = Operands(*layouts_of(signature_of(given)))
    call = prepare_step(layouts, delta_softplus, in_place)
    return None if call is None else call.advance(given)


def errors_of(
    given: dict[str, Any], softplus: bool = True, in_place: bool = True, device: str = "cpu"
) -> list[float]:
    """Relative errors of the output and of the new state."""
    precise = {name: None if x is None else x.double() for name, x in given.items()}
    expected = selective_scan_step(**precise, delta_softplus=softplus)
    there = {name: None if x is None else x.to(device) for name, x in given.items()}
    before = there["state"].clone()
    found = run_step(**there, delta_softplus=softplus, in_place=in_place)
    assert found is not None
    y, state = found
    assert y.dtype == given["u"].dtype
    assert (state is there["state"]) == in_place
    assert in_place or torch.equal(there["state"], before)
    return [relative_error(x.cpu(), exact) for x, exact in zip(found, expected, strict=True)]


CASES = {
    "default": {},
    "one row": {"batch": 1},
    "more rows than a thread takes": {"batch": 9, "channels": 5},
    "groups, one step size, four states": {"states": 4, "groups": 3, "shared_delta": True},
    "one state, one channel": {"channels": 1, "states": 1, "D": False, "bias": False},
    "states that make no packs": {"states": 7},
    "200 states": {"channels": 3, "states": 200},
    "float64": {"dtype": F64, "states": 6},
    "bfloat16": {"dtype": BF16},
    "bfloat16, odd states": {"dtype": BF16, "states": 5},
    "bfloat16, state and parameters too": {"dtype": BF16, "kept": BF16, "D": BF16, "bias": BF16},
    "float16, D too": {"dtype": F16, "D": F16, "z": False},
}
