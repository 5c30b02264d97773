"""Decoding steps by heads with every option."""

from typing import Any

import torch
from ssd_cases import relative_error
from torch import Tensor

from keelback.compiled.layouts import layouts_of, signature_of
from keelback.ssd._operands import Operands
from keelback.ssd.cuda import prepare_step
from keelback.ssd.reference import ssd_step_reference

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
TOLERANCE = {F32: 3e-6, BF16: 1e-2, F16: 2e-3}


def make_step(
    batch: int = 3,
    heads: int = 4,
    head_dim: int = 12,
    states: int = 16,
    groups: int = 1,
    dtype: torch.dtype = F32,
    kept: torch.dtype = F32,
    parameters: torch.dtype = F32,
    D: str | None = "head",
    z: bool = True,
    bias: bool = True,
    limit: tuple[float, float] = (0.0, float("inf")),
) -> dict[str, Any]:
    """The arguments of `ssd_step`; A is float32, D and dt_bias have the dtype of parameters."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    sizes = {None: None, "head": (heads,), "number": (heads, head_dim)}[D]
    return {
        "states": normal(batch, heads, head_dim, states, dtype=kept),
        "x": normal(batch, heads, head_dim),
        "dt": normal(batch, heads),
        "A": -normal(heads, dtype=F32).abs(),
        "B": normal(batch, groups, states),
        "C": normal(batch, groups, states),
        "D": None if sizes is None else normal(*sizes, dtype=parameters),
        "z": normal(batch, heads, head_dim) if z else None,
        "dt_bias": normal(heads, dtype=parameters) if bias else None,
        "dt_softplus": True,
        "dt_limit": limit,
    }


def run_step(given: dict[str, Any], in_place: bool) -> tuple[Tensor, Tensor] | None:
    """Output and new states by the kernel, if it takes the operands."""
    states, *tensors, softplus, (low, high) = given.values()
    operands = Operands(*tensors, states)
    layouts: Any = Operands(*layouts_of(signature_of(operands)))
    call = prepare_step(layouts, (softplus, low, high), in_place)
    return call and call.forward(operands)


def exact_step(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Output and new states of the definition, in float64."""
    precise = {n: x.double().cpu() if isinstance(x, Tensor) else x for n, x in given.items()}
    return ssd_step_reference(**precise)


def require_exact(given: dict[str, Any], in_place: bool) -> None:
    """The kernel's step is that of the definition, and in the dtypes that it should be."""
    expected, before = exact_step(given), given["states"].clone()
    found = run_step(given, in_place)
    assert found is not None
    y, after = found
    assert y.dtype == given["x"].dtype
    assert after.dtype == (before.dtype if in_place else F32)
    assert (after is given["states"]) == in_place
    assert in_place or torch.equal(given["states"], before)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours.cpu(), exact) < TOLERANCE[ours.dtype]


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "a head of one number and one state": {"batch": 1, "heads": 1, "head_dim": 1, "states": 1},
    "numbers that share no thread evenly, groups": {"batch": 2, "head_dim": 7, "groups": 2},
    "states that make no packs": {"states": 7, "D": "number"},
    "a Mamba-2 of today": {"batch": 1, "head_dim": 64, "states": 128, "dtype": BF16},
    "its parameters in half precision": {"states": 128, "dtype": BF16, "parameters": BF16},
    "its states too": {"states": 128, "dtype": BF16, "parameters": BF16, "kept": BF16, "z": False},
    "256 states, float16": {"heads": 2, "states": 256, "dtype": F16, "kept": F16, "D": None},
    "states in half precision, the rest not": {"kept": BF16, "groups": 4},
    "limits of the step": {"limit": (0.3, 0.9), "bias": False},
}
