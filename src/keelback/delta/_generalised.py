"""The generalised delta rule, RWKV-7's, and one step of it."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.by_rows import calls_by_rows
from keelback.compiled.checks import computing_dtype_of
from keelback.compiled.resets import starts_of
from keelback.compiled.watchers import without_autocast
from keelback.delta._generalised_operands import (
    DIFFERENTIABLE,
    Operands,
    require_generalised,
    require_step,
)
from keelback.delta.chunked import generalised
from keelback.delta.reference import generalised_delta_rule_reference


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Of output and last states."""
    operands: Operands[Tensor] = Operands(*arguments[: len(Operands._fields)])
    v, k = operands.v, operands.k
    *rows, _, heads, value = v.shape
    return v.new_empty(v.shape), v.new_empty((*rows, heads, k.shape[-1], value))


_CALLS = calls_by_rows(
    "generalised_delta_rule",
    Operands,
    generalised,
    differentiable=DIFFERENTIABLE,
    require=require_generalised,
    definition=generalised_delta_rule_reference,
    fake=_shapes,
)


def generalised_delta_rule(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    a: Float[Tensor, "batch length heads key"],
    b: Float[Tensor, "batch length heads key"],
    g: Float[Tensor, "batch length heads key"],
    initial_states: Float[Tensor, "batch heads key value"] | None = None,
    return_final_states: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    cu_seqlens: Int[Tensor, " boundaries"] | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> (
    Float[Tensor, "batch length heads value"]
    | tuple[Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads key value"]]
):
    """The delta rule whose erased direction is not the written one: RWKV-7's (Peng et al. 2025,
    arXiv 2503.14456).

        h_t = (diag(exp(g_t)) + b_t a_t^T) h_{t-1} + k_t v_t^T        y_t = h_t^T q_t

    with a matrix h (key, value) per head: a diagonal matrix plus one of rank one moves the state.
    In RWKV-7 q is the receptance r, g the log decay, and k the replacement key. With a removal key
    of norm 1 (kappa) and an in-context learning rate per channel (eta), a = -kappa and
    b = eta kappa. Differentiable in every floating operand. float32 and float64 are computed as
    they are, bfloat16 and float16 in float32. Steps are computed by chunks of 64 or 16, on a GPU
    too, in PyTorch's matrix products: an inf or nan in an operand is in all later outputs that the
    recurrence has it in, and may be in earlier ones of its chunk, which `backend="reference"` keeps
    apart. What grows, where the moving matrix has a norm above one, grows as in the recurrence.

    Args:
        q: The queries; they are not scaled.
        k: The keys along which values are written.
        v: The values.
        a: Along which the state before the step, not yet decayed, is read.
        b: Along which what was read is written.
        g: The log decay per key channel, zero or less.
        initial_states: The states before the first step; zero if absent.
        return_final_states: Whether to return the states after the last step too.
        reset: True where a new sequence starts: the state before that step is zero.
        cu_seqlens: Bounds (0, ..., length) of the sequences packed into a batch of one, another
            way to write `reset`. The initial states are those of the first sequence, the final
            states those of the last one.
        seq_idx: The number of each step's sequence, a third way: a new one starts where it changes.
        backend: "reference" (plain PyTorch, step by step), "cpu" or "cuda"; if absent, the one for
            the device of v.

    Returns:
        y in the dtype of v, or (y, final states). The states are float32, or float64 if all is.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> r, k, removal, g = torch.randn(4, 2, 50, 4, 16)
        >>> v, rates = torch.randn(2, 50, 4, 8), torch.rand(2, 50, 4, 16)
        >>> kappa = torch.nn.functional.normalize(removal, dim=-1)
        >>> g = -0.6 * torch.sigmoid(g)
        >>> generalised_delta_rule(r, k, v, -kappa, rates * kappa, g).shape
        torch.Size([2, 50, 4, 8])
    """
    mask = starts_of(reset, cu_seqlens, seq_idx, v, ("batch", "length", "heads", "value"), "v")
    y, final = _CALLS(Operands(q, k, v, a, b, g, initial_states, mask), (), backend)
    y = y.to(v.dtype)
    return (y, final) if return_final_states else y


def generalised_delta_rule_step(
    states: Float[Tensor, "batch heads key value"],
    q: Float[Tensor, "batch heads key"],
    k: Float[Tensor, "batch heads key"],
    v: Float[Tensor, "batch heads value"],
    a: Float[Tensor, "batch heads key"],
    b: Float[Tensor, "batch heads key"],
    g: Float[Tensor, "batch heads key"],
) -> tuple[Float[Tensor, "batch heads value"], Float[Tensor, "batch heads key value"]]:
    """Advance `generalised_delta_rule` by one position: the output there, and the new states.

    The operands are those of the sequence without the axis of the length; `states` is left as it
    is. It is computed in PyTorch's operations, with gradients through both results.

    Returns:
        The output in the dtype of v, and the states after the step, float32 or float64.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> states, v = torch.zeros(1, 2, 3, 4), torch.randn(1, 2, 4)
        >>> q, k, a, b, g = torch.randn(5, 1, 2, 3)
        >>> y, states = generalised_delta_rule_step(states, q, k, v, a, b, -g.abs())
        >>> y.shape, states.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 3, 4]))
    """
    given: Operands[Any] = Operands(q, k, v, a, b, g, states)
    require_step(given)
    dtype = computing_dtype_of(given, (*Operands._fields[:6], "states"))
    with without_autocast(v.device):
        query, key, value, read, write, log, h = (x.to(dtype) for x in (q, k, v, a, b, g, states))
        erased = read.unsqueeze(-2) @ h
        h = torch.addcmul(log.exp().unsqueeze(-1) * h, write.unsqueeze(-1), erased)
        h = torch.addcmul(h, key.unsqueeze(-1), value.unsqueeze(-2))
        return (query.unsqueeze(-2) @ h).squeeze(-2).to(v.dtype), h
