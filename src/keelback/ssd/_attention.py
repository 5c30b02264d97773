"""Gated linear attention: the scan by heads with weights and log decays that are given apart."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.by_rows import calls_by_rows
from keelback.compiled.checks import computing_dtype_of
from keelback.compiled.resets import starts_of
from keelback.compiled.watchers import without_autocast
from keelback.ssd import _op
from keelback.ssd import _operands as scans
from keelback.ssd._attention_operands import (
    DIFFERENTIABLE,
    Operands,
    require_attention,
    require_step,
)
from keelback.ssd.chunked import attention
from keelback.ssd.reference import NO_LIMIT, gated_linear_attention_reference


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Of output and last states."""
    operands: Operands[Tensor] = Operands(*arguments[: len(Operands._fields)])
    v, k = operands.v, operands.k
    *rows, _, heads, value = v.shape
    return v.new_empty(v.shape), v.new_empty((*rows, heads, value, k.shape[-1]))


_CALLS = calls_by_rows(
    "gated_linear_attention",
    Operands,
    attention,
    differentiable=DIFFERENTIABLE,
    require=require_attention,
    definition=gated_linear_attention_reference,
    fake=_shapes,
)


def gated_linear_attention(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"],
    weights: Float[Tensor, "batch length heads"] | None = None,
    initial_states: Float[Tensor, "batch heads value key"] | None = None,
    return_final_states: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    cu_seqlens: Int[Tensor, " boundaries"] | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> (
    Float[Tensor, "batch length heads value"]
    | tuple[Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads value key"]]
):
    """Linear attention whose memory decays, by one factor per head and step or per key channel too.

        h_t = exp(g_t) h_{t-1} + w_t v_t k_t^T        y_t = h_t q_t

    with a matrix h (value, key) per head. This is the scan of state-space duality (Dao and Gu 2024,
    arXiv 2405.21060) with x = v, B = k and C = q, where the weight w_t of an input and the log
    decay g_t are given apart instead of as one step size. A constant g is RetNet's retention (Sun
    et al. 2023, arXiv 2307.08621) and lightning attention's decay (Qin et al. 2024, arXiv
    2401.04658). With one log decay per key channel, h_t = h_{t-1} diag(exp(g_t)) + w_t v_t k_t^T:
    GLA (Yang et al. 2023, arXiv 2312.06635, equation 3, whose state is the transpose of h), and
    HGRN2 (Qin et al. 2024, arXiv 2404.07904) with k = 1 - exp(g).
    Differentiable in every floating operand. float32 and float64 are computed as they
    are, bfloat16 and float16 in float32. On a CPU kernels compute float32, by chunks of 16 steps;
    all else, on a GPU too, is computed by chunks of 64 in PyTorch's matrix products. An inf or nan
    in q, k or v is in all later outputs, as in the recurrence, and may be in earlier ones of its
    chunk, which `backend="reference"` keeps apart.

    Args:
        q: The queries. The number of groups divides that of heads; head h reads with group
            h // (heads / groups). They are not scaled.
        k: The keys, grouped as q.
        v: The values.
        g: The log decay, zero or less where the states decay; per head or per key channel.
        weights: By what each value is multiplied; one if absent.
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
        >>> (q, k), v = torch.randn(2, 2, 100, 2, 32), torch.ones(2, 100, 4, 8)
        >>> gated_linear_attention(q, k, v, -torch.rand(2, 100, 4)).shape
        torch.Size([2, 100, 4, 8])
        >>> gated_linear_attention(q, k, v, -torch.rand(2, 100, 4, 32)).shape  # per key channel
        torch.Size([2, 100, 4, 8])
    """
    mask = starts_of(reset, cu_seqlens, seq_idx, v, ("batch", "length", "heads", "value"), "v")
    operands = Operands(q, k, v, g, weights, initial_states, mask)
    y, final = _CALLS(operands, (), backend)
    y = y.to(v.dtype)
    return (y, final) if return_final_states else y


def gated_linear_attention_step(
    states: Float[Tensor, "batch heads value key"],
    q: Float[Tensor, "batch groups key"],
    k: Float[Tensor, "batch groups key"],
    v: Float[Tensor, "batch heads value"],
    g: Float[Tensor, "batch heads"] | Float[Tensor, "batch heads key"],
    weights: Float[Tensor, "batch heads"] | None = None,
) -> tuple[Float[Tensor, "batch heads value"], Float[Tensor, "batch heads value key"]]:
    """Advance `gated_linear_attention` by one position: the output there, and the new states.

    The operands are those of the sequence without the axis of the length. Start from zeros, or from
    the final states of the prompt; `states` itself is left as it is.

    Returns:
        The output in the dtype of v, and the states after the step, float32 or float64, from which
        the next step goes on. Gradients go through both.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> states = torch.zeros(1, 2, 4, 3)
        >>> q, k, v = torch.randn(1, 2, 3), torch.randn(1, 2, 3), torch.randn(1, 2, 4)
        >>> y, states = gated_linear_attention_step(states, q, k, v, -torch.rand(1, 2))
        >>> y.shape, states.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 4, 3]))
    """
    given: Operands[Any] = Operands(q, k, v, g, weights, states)
    require_step(given)
    computing = computing_dtype_of(given, (*Operands._fields[:5], "states"))
    x = v.to(computing)
    if weights is not None:
        x = x * weights.to(computing).unsqueeze(-1)
    if given.by_channel:
        with without_autocast(v.device):
            y, after = _step_by_channel(*(one.to(computing) for one in (states, q, k, x, g)))
        return y.to(v.dtype), after
    # All sequences' heads as those of one, each with a rate of its own, in a step of size 1.
    one: list[Any] = [y.to(computing).flatten(0, 1).unsqueeze(0) for y in (x, k, q, states)]
    rates = g.to(computing).flatten()
    x, B, C, before = one
    operands = scans.Operands(x, torch.ones_like(rates)[None], rates, B, C, initial_states=before)
    y, after = _op.step(operands, scans.options_of(False, NO_LIMIT))
    return y.view(v.shape).to(v.dtype), after.view(states.shape)


def _step_by_channel(
    states: Tensor, q: Tensor, k: Tensor, x: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and states after a step with a decay per key channel, all in one dtype."""
    q, k = (one.repeat_interleave(x.shape[1] // k.shape[1], dim=1) for one in (q, k))
    decayed = states * g.exp().unsqueeze(-2)
    after = torch.addcmul(decayed, x.unsqueeze(-1), k.unsqueeze(-2))
    return (after @ q.unsqueeze(-1)).squeeze(-1), after
