"""Delta rules with every option, and what they should give: float64 autograd of the recurrence."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from keelback.delta.reference import delta_rule_reference

TOLERANCE = {
    torch.float32: 5e-6,
    torch.float64: 1e-12,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}
DIFFERENTIABLE = ("q", "k", "v", "g", "beta", "initial_states")


@dataclass(frozen=True)
class Case:
    """Sizes and options of a delta rule."""

    batch: int = 2
    length: int = 70
    heads: int = 2
    value: int = 16
    groups: int = 2
    key: int = 16
    dtype: torch.dtype = torch.float32
    by_channel: bool = False  # a decay per key channel
    decay: float = 1.0  # what the log decays are multiplied by
    strong: float = 0.0  # what is added to those of every fourth channel
    beta: float | None = None  # of every step; random if absent
    normalise: bool = True
    scale: float | None = None
    initial: bool = False
    reset: float = 0.0  # the share of steps with one

    def __str__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "default"


def make_operands(case: Case, seed: int = 0) -> dict[str, Any]:
    """The arguments of `delta_rule_reference`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(case.dtype)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    rows = (case.batch, case.length)
    keys = (*rows, case.groups, case.key)
    channels = (case.key,) if case.by_channel else ()
    k = normal(*keys)
    if not case.normalise:  # A state whose keys are longer than 1 may grow without bound.
        k = k / k.norm(dim=-1, keepdim=True)
    g = -case.decay * uniform(*rows, case.heads, *channels)
    if case.by_channel:
        g[..., ::4] += case.strong
    beta = uniform(*rows, case.heads)
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    reset = uniform(*rows) < case.reset
    return {
        "q": normal(*keys),
        "k": k,
        "v": normal(*rows, case.heads, case.value),
        "g": g.to(case.dtype),
        "beta": (beta if case.beta is None else torch.full_like(beta, case.beta)).to(case.dtype),
        "initial_states": (
            normal(case.batch, case.heads, case.key, case.value).to(wide) if case.initial else None
        ),
        "reset": reset if case.reset else None,
        "normalise": case.normalise,
        "scale": case.scale,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """In the Euclidean norm; NaN is no match."""
    found, expected = found.detach().double().cpu(), expected.detach().double()
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    return math.inf if math.isnan(error) else error


def precise(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same in float64, to be differentiated."""
    return {
        name: x.double().requires_grad_() if name in DIFFERENTIABLE and x is not None else x
        for name, x in arguments.items()
    }


def errors_of(case: Case, run: Callable[..., Any], device: str = "cpu") -> dict[str, float]:
    """Errors of the output, the last state and every gradient of `delta_rule` on a device.

    They are relative to what is expected, in the Euclidean norm. Those of the log decays are
    relative to the sums of what is added up for them: with strong decays, or one step, nothing is
    left of it.
    """
    given = make_operands(case)
    exact = precise(given)
    y, last = delta_rule_reference(**exact)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(case.dtype)
    dlast = torch.randn(last.shape, generator=generator).to(last_dtype(case))
    names = [name for name in DIFFERENTIABLE if given[name] is not None]
    wanted = [exact[name] for name in names]
    gradients = torch.autograd.grad([y, last], wanted, [dy.double(), dlast.double()])
    expected = dict(zip(names, gradients, strict=True))
    there = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in given.items()}
    leaves = {name: there[name].requires_grad_() for name in names}
    found_y, found_last = run(**{**there, **leaves}, return_final_states=True)
    assert found_last.dtype == last_dtype(case)
    of_outputs = [dy.to(device), dlast.to(device)]
    found = torch.autograd.grad([found_y, found_last], list(leaves.values()), of_outputs)
    errors = {"y": relative_error(found_y, y), "last": relative_error(found_last, last)}
    for name, gradient in zip(names, found, strict=True):
        assert gradient.dtype == given[name].dtype
        assert gradient.shape == given[name].shape
        error = relative_error(gradient, expected[name])
        if name == "g":
            size = expected[name].norm().clamp_min(1e-30)
            error *= float(size / (size + (exact["q"] * expected["q"]).detach().norm()))
        errors[f"d{name}"] = error
    return errors


def last_dtype(case: Case) -> torch.dtype:
    """The dtype of the states."""
    return torch.float64 if case.dtype == torch.float64 else torch.float32


def tolerance(case: Case) -> float:
    """The error that a result may have."""
    return TOLERANCE[case.dtype]
