"""One step of the recurrence, for decoding."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import computing_dtype
from keelback.scan import cuda as _cuda
from keelback.scan._checks import require_step_shapes


def selective_scan_step(
    state: Float[Tensor, "batch channels state"],
    u: Float[Tensor, "batch channels"],
    delta: Float[Tensor, "batch #channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch groups state"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch channels"] | None = None,
    delta_bias: Float[Tensor, " channels"] | None = None,
    delta_softplus: bool = False,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels state"]]:
    """Advance `selective_scan` by one position: the output there, and the new state.

    The operands are those of `selective_scan` without the axis of the length. Start from zeros,
    or from the last state that a scan of the prompt returns; `state` itself is left as it is.

    Returns:
        The output in the dtype of `u`, and the state after the step in that of `A`, float32 or
        float64, from which the next step goes on. Gradients go through both.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    return advanced(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, in_place=False)


def advanced(
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
    """`selective_scan_step`; in place, the new state is `state` itself, overwritten."""
    given = (state, u, delta, A, B, C, D, z, delta_bias)
    found = _cuda.advance_state(*given, delta_softplus, in_place)
    if found is not None:
        return found
    require_step_shapes(*(None if x is None else x.shape for x in given))  # type: ignore[arg-type]
    names = ("state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    dtype = computing_dtype(dict(zip(names, given, strict=True)))
    channels = u.shape[1]
    value, step = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if delta_softplus:
        step = F.softplus(step)
    repeats = channels // B.shape[1]
    B, C = (x.to(dtype).repeat_interleave(repeats, dim=1) for x in (B, C))
    decay = torch.exp(step.unsqueeze(-1) * A.to(dtype))
    new_state = decay * state.to(dtype) + (step * value).unsqueeze(-1) * B
    y = (new_state * C).sum(-1)
    if D is not None:
        y = y + D.to(dtype) * value
    if z is not None:
        y = y * F.silu(z.to(dtype))
    if in_place:
        new_state = state.copy_(new_state)
    return y.to(u.dtype), new_state
