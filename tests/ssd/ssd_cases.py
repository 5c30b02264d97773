"""Scans by heads with every option, and what they should give: float64 autograd."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from keelback.ssd.reference import (
    NO_LIMIT,
    DtLimit,
    ssd_reference,
    steps_of,
    with_skip_and_gate,
)

TOLERANCE = {
    torch.float32: 3e-6,
    torch.float64: 1e-12,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}
DIFFERENTIABLE = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_states")


@dataclass(frozen=True)
class Case:
    """Sizes and options of a scan by heads."""

    batch: int = 2
    length: int = 70
    heads: int = 3
    head_dim: int = 16
    groups: int = 1
    state: int = 16
    dtype: torch.dtype = torch.float32
    dt_dtype: torch.dtype | None = None
    D: str | None = "head"  # or "number"
    z: bool = False
    bias: bool = True
    softplus: bool = True
    dt_limit: DtLimit = NO_LIMIT
    initial: bool = False
    reset: bool = False
    rate: float = 1.0  # of A

    def __str__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "default"


def make_operands(case: Case, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """The arguments of `ssd_reference`."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.float64 if case.dtype == torch.float64 else torch.float32

    def normal(*size: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)

    rows, heads, numbers = (case.batch, case.length), case.heads, case.head_dim
    A = -case.rate * (torch.rand(heads, generator=generator, dtype=torch.float64) + 0.05)
    skips = {None: None, "head": (heads,), "number": (heads, numbers)}[case.D]
    reset = torch.rand(rows, generator=generator) < 0.05
    return {
        "x": normal(*rows, heads, numbers),
        "dt": normal(*rows, heads, dtype=case.dt_dtype or case.dtype) / 2,
        "A": A.to(device, real),
        "B": normal(*rows, case.groups, case.state),
        "C": normal(*rows, case.groups, case.state),
        "D": None if skips is None else normal(*skips, dtype=real),
        "z": normal(*rows, heads, numbers) if case.z else None,
        "dt_bias": normal(heads, dtype=real) if case.bias else None,
        "initial_states": (
            normal(case.batch, heads, numbers, case.state, dtype=real) if case.initial else None
        ),
        "reset": reset.to(device) if case.reset else None,
        "dt_softplus": case.softplus,
        "dt_limit": case.dt_limit,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """In the Euclidean norm; NaN is no match."""
    found, expected = found.detach().double(), expected.detach().double()
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    return math.inf if math.isnan(error) else error


def precise(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same in float64, to be differentiated."""
    return {
        name: x.double().requires_grad_() if name in DIFFERENTIABLE and x is not None else x
        for name, x in arguments.items()
    }


Scan = Callable[..., tuple[Tensor, Tensor]]
Backward = Callable[..., tuple[Tensor, ...]]


def terms_of_rates(exact: dict[str, Any], dy: Tensor, dlast: Tensor) -> Tensor:
    """What each step adds to the gradient of A, (batch, length, heads): they may cancel."""
    given = {name: x.detach() if isinstance(x, Tensor) else x for name, x in exact.items()}
    x, B, C, reset = (given[name] for name in ("x", "B", "C", "reset"))
    steps = ("dt", "dt_bias", "dt_softplus", "dt_limit")
    sizes = steps_of(*(given[name] for name in steps))
    logs = (sizes * given["A"]).requires_grad_()
    B, C = (one.repeat_interleave(x.shape[2] // one.shape[2], dim=2) for one in (B, C))
    h = torch.zeros_like(dlast) if given["initial_states"] is None else given["initial_states"]
    outputs = []
    for t in range(x.shape[1]):
        before = h if reset is None else h * ~reset[:, t, None, None, None]
        added = (sizes[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        h = logs[:, t].exp()[..., None, None] * before + added
        outputs.append((h * C[:, t, :, None]).sum(-1))
    y = with_skip_and_gate(torch.stack(outputs, 1), x, given["D"], given["z"])
    (found,) = torch.autograd.grad([y, h], [logs], [dy, dlast])
    return found * sizes


def errors_of(
    case: Case, forward: Scan, backward: Backward, device: str = "cpu"
) -> dict[str, float]:
    """Errors of the output, the last state and every gradient of the compiled operator.

    They are relative to what is expected, in the Euclidean norm; that of the output to what states
    and skip connection add to it, which may cancel. Those of A and the bias are relative to the
    sums of the magnitudes of what the steps add to them: with one head each is a single number, in
    which thousands of terms may cancel almost to zero.
    """
    given = make_operands(case, device)
    exact = precise(given)
    y, last = ssd_reference(**exact)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(device, case.dtype)
    dlast = torch.randn(last.shape, generator=generator).to(device, given["A"].dtype)
    names = [name for name in DIFFERENTIABLE if given[name] is not None]
    gradients = torch.autograd.grad(
        [y, last], [exact[name] for name in names], [dy.double(), dlast.double()]
    )
    expected = dict(zip(names, gradients, strict=True))
    *tensors, softplus, limits = given.values()
    found_y, found_last = forward(*tensors, softplus, *limits)
    found = dict(zip(DIFFERENTIABLE, backward(dy, dlast, *tensors, softplus, *limits), strict=True))
    of_states, _ = ssd_reference(**{**exact, "D": None})
    parts = of_states.detach().norm() + (y - of_states).detach().norm()
    error_of_y = relative_error(found_y, y) * float(y.detach().norm() / parts)
    errors = {"y": error_of_y, "last": relative_error(found_last, last)}
    terms = {
        "A": terms_of_rates(exact, dy.double(), dlast.double()),
        "dt_bias": expected["dt"],
    }
    for name, gradient in expected.items():
        assert found[name].dtype == given[name].dtype
        assert found[name].shape == given[name].shape
        error = relative_error(found[name], gradient)
        if name in terms:
            sums = terms[name].abs().sum((0, 1)).norm().clamp_min(1e-30)
            error *= float(gradient.norm().clamp_min(1e-30) / sums)
        errors[f"d{name}"] = error
    return errors


def tolerance(case: Case) -> float:
    """The error that a result may have."""
    return TOLERANCE[case.dtype]
