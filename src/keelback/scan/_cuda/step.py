"""One step of the recurrence on an NVIDIA GPU: the forward kernel over a length of one."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from keelback.scan._cuda.forward import run_forward
from keelback.scan._cuda.operands import operands
from keelback.scan._cuda.plan import MAX_STATES, plan_of_step


def can_advance(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> bool:
    """Whether `advance_state` takes these: on a GPU, no gradient or transform, and its dtypes."""
    inputs = [x for x in (u, delta, B, C, z) if x is not None]
    parameters = [x for x in (state, A, D, delta_bias) if x is not None]
    if not all(x.is_cuda for x in inputs + parameters) or A.shape[-1] > MAX_STATES:
        return False
    if is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs + parameters):
        return False
    real = torch.float64 if u.dtype == torch.float64 else torch.float32
    return all(x.dtype == u.dtype for x in inputs) and all(x.dtype == real for x in parameters)


def advance_state(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    in_place: bool,
) -> tuple[Tensor, Tensor]:
    """Output and new state of `selective_scan_step`; in place, the new state is `state`."""
    given = operands(
        _one_step(u),
        _one_step(delta),
        A[None],
        _one_step(B),
        _one_step(C),
        None if D is None else D[None],
        None if z is None else _one_step(z),
        None if delta_bias is None else delta_bias[None],
        state[None],
        None,
        delta_softplus,
    )
    if given.shape.empty:
        return torch.empty_like(u), state if in_place else state.clone()
    over_state = in_place and state.is_contiguous()
    plan = plan_of_step(given.traits(given.u))
    y, last = run_forward(given, plan, state[None] if over_state else None)
    if in_place and not over_state:
        state.copy_(last[0])
    return y[0, :, 0], state if in_place else last[0]


def _one_step(x: Tensor) -> Tensor:
    """(batch, ...) as (replicas, batch, length, ...)."""
    return x[None, :, None]
