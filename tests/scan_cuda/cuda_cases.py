"""Scans with every option, and what they should give: float64 autograd of the reference."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.cuda_operands import addresses
from keelback.compiled.layouts import Layout, signature_of
from keelback.scan._operands import Operands
from keelback.scan.cuda.backward import BackwardPass
from keelback.scan.cuda.forward import ForwardPass
from keelback.scan.cuda.launch import CudaScan, prepare
from keelback.scan.cuda.plan import BACKWARD, FORWARD, CudaPlan, Cutting, configuration_of, cut
from keelback.scan.reference import selective_scan_reference

TOLERANCE = {
    torch.float32: 3e-6,
    torch.float64: 1e-12,
    torch.bfloat16: 5e-3,
    torch.float16: 1e-3,
}


@dataclass(frozen=True)
class Case:
    """Sizes and options of a scan; `spans` is the number of parts that run at the same time."""

    batch: int = 2
    length: int = 45
    channels: int = 16
    states: int = 16
    groups: int = 1
    replicas: int = 1
    dtype: torch.dtype = torch.float32
    spans: int = 1
    D: bool = True
    z: bool = False
    bias: bool = True
    softplus: bool = True
    initial: bool = False
    reset: bool = False
    shared_delta: bool = False
    unstable: bool = False

    def __str__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "default"


def tolerance(case: Case) -> float:
    """The relative error that a case may have.

    Without softplus the steps have both signs, and a state decays no more than it grows: rounding
    errors of the whole length remain in it, which is what counts where storage is not coarser.
    """
    undecaying = not case.softplus and case.dtype in (torch.float32, torch.float64)
    return TOLERANCE[case.dtype] * (max(1.0, case.length / 100) if undecaying else 1.0)


def make_operands(case: Case, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """The arguments of `prepared`, with a leading axis of replicas."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.float64 if case.dtype == torch.float64 else torch.float32

    def normal(*size: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)

    R, channels, states = case.replicas, case.channels, case.states
    rows = (R, case.batch, case.length)
    uniform = torch.rand((R, channels, states), generator=generator, dtype=torch.float64)
    rates = 0.02 * uniform if case.unstable else -2 * uniform - 0.05
    if case.dtype == torch.float16 and not case.softplus:
        rates /= 10  # Steps go back and forth: outputs stay within what float16 holds.
    resets = torch.rand(rows, generator=generator) < 0.1
    return {
        "u": normal(*rows, channels),
        "delta": normal(*rows, 1 if case.shared_delta else channels) / 2,
        "A": rates.to(device, real),
        "B": normal(*rows, case.groups, states),
        "C": normal(*rows, case.groups, states),
        "D": normal(R, channels, dtype=real) if case.D else None,
        "z": normal(*rows, channels) if case.z else None,
        "delta_bias": normal(R, channels, dtype=real) if case.bias else None,
        "initial_state": (
            normal(R, case.batch, channels, states, dtype=real) if case.initial else None
        ),
        "reset": resets.to(device) if case.reset else None,
        "delta_softplus": case.softplus,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """In the Euclidean norm; what the dtype of `found` cannot hold must be infinite."""
    rounded = expected.detach().to(found.dtype)
    if not torch.equal(found[rounded.isinf()], rounded[rounded.isinf()]):
        return math.inf
    found, expected = found[rounded.isfinite()], expected[rounded.isfinite()]
    error = (found.double() - expected).norm() / expected.norm().clamp_min(1e-30)
    return float(error.detach())


def prepared(delta_softplus: bool, **operands: Any) -> tuple[CudaScan, Operands[Tensor]]:
    """The scans of such operands, and these as the kernels take them."""
    given = Operands(**operands)
    scan = prepare(signature_of(given), (delta_softplus,))
    return scan, scan.taken(given)


def planned(scan: CudaScan, given: Operands[Tensor], spans: int, cutting: Cutting) -> CudaPlan:
    """A plan with the given number of spans."""
    configuration = configuration_of(scan.traits(*scan.alignment(addresses(given))), cutting)
    return cut(scan.sizes, configuration, -(-scan.sizes.length // spans))


def forward_pass(scan: CudaScan, given: Operands[Tensor], spans: int) -> tuple[Tensor, Tensor]:
    """Output and last state, by a plan with the given number of spans."""
    return ForwardPass(scan, planned(scan, given, spans, FORWARD)).run(addresses(given))


def backward_pass(
    scan: CudaScan, given: Operands[Tensor], dy: Tensor, dlast: Tensor | None, spans: int
) -> Operands[Tensor]:
    """The gradients, by a plan with the given number of spans."""
    of_dy = Layout(dy.shape, dy.stride(), dy.dtype, dy.device)
    whole = BackwardPass(scan, planned(scan, given, spans, BACKWARD), of_dy)
    at = addresses(given)
    return whole.reverse(at, whole.sweep(at, dy), dlast)


def errors_of(case: Case, device: str = "cpu") -> dict[str, float]:
    """Relative errors of the output, the last state and every gradient."""
    arguments = make_operands(case, device)
    precise = {
        name: x.double().requires_grad_()
        for name, x in arguments.items()
        if isinstance(x, Tensor) and name != "reset"
    }
    outputs = [
        selective_scan_reference(
            **{name: x[r] for name, x in precise.items()},
            delta_softplus=case.softplus,
            reset=None if arguments["reset"] is None else arguments["reset"][r],
        )
        for r in range(case.replicas)
    ]
    y, last = (torch.stack(parts) for parts in zip(*outputs, strict=True))
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(device, case.dtype)
    dlast = torch.randn(last.shape, generator=generator).to(device, arguments["A"].dtype)
    gradients = torch.autograd.grad(
        [y, last], list(precise.values()), [dy.double(), dlast.double()]
    )

    scan, given = prepared(**arguments)
    found_y, found_last = forward_pass(scan, given, case.spans)
    found = backward_pass(scan, given, dy, dlast, case.spans)
    errors = {"y": relative_error(found_y, y), "last": relative_error(found_last, last)}
    for name, expected in zip(precise, gradients, strict=True):
        gradient = getattr(found, name)
        assert gradient is not None
        assert gradient.dtype == arguments[name].dtype
        errors[f"d{name}"] = relative_error(gradient, expected)
    return errors
