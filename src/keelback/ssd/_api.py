"""The public scan by heads, and one step of it."""

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.resets import starts_of
from keelback.ssd._op import scan_by_heads, step
from keelback.ssd._operands import Operands, options_of
from keelback.ssd.reference import NO_LIMIT, DtLimit


def ssd(
    x: Float[Tensor, "batch length heads head_dim"],
    dt: Float[Tensor, "batch length heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads head_dim"] | None = None,
    z: Float[Tensor, "batch length heads head_dim"] | None = None,
    dt_bias: Float[Tensor, " heads"] | None = None,
    dt_softplus: bool = False,
    dt_limit: DtLimit = NO_LIMIT,
    initial_states: Float[Tensor, "batch heads head_dim state"] | None = None,
    return_final_states: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    cu_seqlens: Int[Tensor, " boundaries"] | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> (
    Float[Tensor, "batch length heads head_dim"]
    | tuple[
        Float[Tensor, "batch length heads head_dim"], Float[Tensor, "batch heads head_dim state"]
    ]
):
    """Mamba-2's scan by heads, state-space duality (Dao and Gu 2024, arXiv 2405.21060).

        h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        y_t = (h_t C_t + D x_t) silu(z_t)

    with a matrix h (head_dim, state) and a scalar A per head. Differentiable in every floating
    operand. float32 and float64 are computed as they are, in float32 with products of all 24 bits
    (16 where PyTorch allows TF32 in matrix products); of bfloat16 and float16 the products are
    taken on the matrix units and everything is added up in float32, the states too. Steps are
    multiplied by chunks of up to 128: an inf or nan in x, B or C is in all later outputs, as in the
    recurrence, and may be in earlier ones of its chunk, which `backend="reference"` keeps apart.
    Where A dt > 0 the states grow. A growth within a chunk that the dtype does not hold (e^88 in
    float32) may make outputs and gradients of it and of later chunks inf or nan, even where the
    state is zero. Growth before a reset is not felt after it.

    Args:
        x: The input.
        dt: The step size.
        A: The logarithm of the decay per unit of step size; negative where the states decay.
        B: The input map. The number of groups divides that of heads; head h is in group
            h // (heads / groups).
        C: The output map, grouped as B.
        D: The skip connection, per head or per number of a head.
        z: The gate.
        dt_bias: Added to dt.
        dt_softplus: Whether to apply softplus to dt (after the bias).
        dt_limit: The lowest and highest step size, to which it is clamped (after softplus).
        initial_states: The states before the first step; zero if absent.
        return_final_states: Whether to return the states after the last step too.
        reset: True where a new sequence starts: the state before that step is zero.
        cu_seqlens: Bounds (0, ..., length) of the sequences packed into a batch of one, another
            way to write `reset`. The initial states are those of the first sequence, the final
            states those of the last one.
        seq_idx: The number of each step's sequence, a third way: a new one starts where it changes.
        backend: "reference" (plain PyTorch, step by step), "cpu" or "cuda"; if absent, the one for
            the device of x.

    Returns:
        y in the dtype of x, or (y, final states). The states are float32, or float64 if all is.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> x, dt = torch.randn(2, 100, 4, 64), torch.rand(2, 100, 4)
        >>> B, C = torch.randn(2, 100, 1, 32), torch.randn(2, 100, 1, 32)
        >>> ssd(x, dt, -torch.ones(4), B, C).shape
        torch.Size([2, 100, 4, 64])
    """
    mask = starts_of(reset, cu_seqlens, seq_idx, x, ("batch", "length", "heads", "head_dim"), "x")
    operands = Operands(x, dt, A, B, C, D, z, dt_bias, initial_states, mask)
    y, final = scan_by_heads(operands, options_of(dt_softplus, dt_limit), backend)
    return (y, final) if return_final_states else y


def ssd_step(
    states: Float[Tensor, "batch heads head_dim state"],
    x: Float[Tensor, "batch heads head_dim"],
    dt: Float[Tensor, "batch heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch groups state"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads head_dim"] | None = None,
    z: Float[Tensor, "batch heads head_dim"] | None = None,
    dt_bias: Float[Tensor, " heads"] | None = None,
    dt_softplus: bool = False,
    dt_limit: DtLimit = NO_LIMIT,
) -> tuple[Float[Tensor, "batch heads head_dim"], Float[Tensor, "batch heads head_dim state"]]:
    """Advance `ssd` by one position: the output there, and the new states.

    The operands are those of `ssd` without the axis of the length. Start from zeros, or from the
    final states that a scan of the prompt returns; `states` itself is left as it is.

    Returns:
        The output in the dtype of x, and the states after the step in that of A, float32 or
        float64, from which the next step goes on. Gradients go through both.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> states, x, dt = torch.zeros(1, 2, 4, 3), torch.randn(1, 2, 4), torch.full((1, 2), 0.1)
        >>> A, B, C = -torch.ones(2), torch.randn(1, 1, 3), torch.randn(1, 1, 3)
        >>> y, states = ssd_step(states, x, dt, A, B, C)
        >>> y.shape, states.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 4, 3]))
    """
    operands = Operands(x, dt, A, B, C, D, z, dt_bias, states)
    return step(operands, options_of(dt_softplus, dt_limit))
