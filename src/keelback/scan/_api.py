"""The public selective scan: checks, dtypes and the choice of backend."""

from functools import partial
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.checks import choose_backend, computing_dtype, reset_mask
from keelback.compiled.watchers import runs_eagerly
from keelback.scan._checks import (
    require_scan_shapes,
    require_scan_shapes_once,
    storing_dtype,
)
from keelback.scan._eager import eager_scan
from keelback.scan._op import run_scan
from keelback.scan.reference import selective_scan_reference

_DTYPES = ({torch.float32}, {torch.float64})


def selective_scan(
    u: Float[Tensor, "batch length channels"],
    delta: Float[Tensor, "batch length #channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch length channels"] | None = None,
    delta_bias: Float[Tensor, " channels"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "batch channels state"] | None = None,
    return_last_state: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    cu_seqlens: Int[Tensor, " boundaries"] | None = None,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> (
    Float[Tensor, "batch length channels"]
    | tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels state"]]
):
    """The selective scan, the recurrence of Mamba (Gu and Dao 2023, arXiv 2312.00752, Algorithm 2).

        h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = (C_t . h_t + D u_t) silu(z_t)

    Differentiable in every floating operand. A may be positive; a state that overflows is inf or
    nan, as the arithmetic has it. float32 and float64 are computed as they are; bfloat16, float16
    and mixtures of them with float32 are computed in float32, and y has the dtype of u.

    Args:
        u: The input.
        delta: The step size, one a channel or one for all.
        A: The diagonal state matrices.
        B: The input map. The number of groups divides that of channels; channel c is in group
            c // (channels / groups).
        C: The output map, grouped as B.
        D: The skip connection.
        z: The gate.
        delta_bias: Added to delta.
        delta_softplus: Whether to apply softplus to delta (after the bias).
        initial_state: The state before the first step; zero if absent.
        return_last_state: Whether to return the state after the last step too.
        reset: True where a new sequence starts: the state before that step is zero.
        cu_seqlens: Bounds (0, ..., length) of the sequences packed into a batch of one, another
            way to write `reset`. The initial state is that of the first sequence, the last
            state that of the last one.
        backend: "reference" (plain PyTorch), "cpu" or "cuda" (compiled); if absent, the one for
            the device of u.

    Returns:
        y, or (y, last state). The last state is float32 where the operands are of half precision.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.
    """
    operands = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    shapes: tuple[Any, ...] = tuple([None if x is None else x.shape for x in operands])
    if backend in (None, "cpu") and cu_seqlens is None and _needs_no_care(operands, reset):
        require_scan_shapes_once(*shapes)
        mask = reset_mask(reset, None, u, *u.shape[:2])
        y, last_state = eager_scan(delta_softplus, *operands, mask)
        return (y, last_state) if return_last_state else y

    require_scan_shapes(*shapes)
    mask = reset_mask(reset, cu_seqlens, u, *u.shape[:2])
    chosen, prepared = prepare(operands, backend)
    u_, delta, A, B, C, D, z, delta_bias, initial = prepared
    run = _run_reference if chosen == "reference" else _run_operator
    y, last_state = run(u_, delta, A, B, C, D, z, delta_bias, delta_softplus, initial, mask)
    y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def prepare(
    operands: tuple[Tensor | None, ...], backend: str | None
) -> tuple[str, tuple[Any, ...]]:
    """The backend for u, ..., delta_bias, initial_state, and these in the dtypes that it takes."""
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    dtype = computing_dtype(dict(zip(names, operands, strict=True)))
    u, delta, A, B, C, D, z, delta_bias, initial_state = operands
    assert u is not None
    chosen = choose_backend(backend, u.device)
    compute = partial(_to, dtype=dtype)
    stored = storing_dtype((u, delta, B, C, z)) if chosen == "cuda" else dtype
    store = partial(_to, dtype=stored or dtype)
    sequences = (store(u), store(delta), compute(A), store(B), store(C), compute(D), store(z))
    return chosen, (*sequences, compute(delta_bias), compute(initial_state))


def _needs_no_care(operands: tuple[Tensor | None, ...], reset: Tensor | None) -> bool:
    """Whether the CPU kernels can take the operands as they are, past PyTorch's dispatcher."""
    dtypes = {x.dtype for x in operands if x is not None}
    return dtypes in _DTYPES and runs_eagerly(*operands, reset)


@overload
def _to(x: Tensor, dtype: torch.dtype) -> Tensor: ...
@overload
def _to(x: None, dtype: torch.dtype) -> None: ...
def _to(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return x if x is None or x.dtype == dtype else x.to(dtype)


def _run_reference(u: Tensor, *operands: Any) -> tuple[Tensor, Tensor]:
    with torch.autocast(u.device.type, enabled=False):
        return selective_scan_reference(u, *operands)


def _run_operator(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    operands = (u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    if runs_eagerly(*operands):
        return eager_scan(delta_softplus, *operands)
    one_replica = [None if x is None else x.unsqueeze(0) for x in operands]
    keep_checkpoints = torch.is_grad_enabled()
    y, last_state, _ = run_scan(*one_replica, delta_softplus, keep_checkpoints)
    return y.squeeze(0), last_state.squeeze(0)
