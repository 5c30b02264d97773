"""The public delta rule, and one step of it."""

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.checks import finite_scale
from keelback.compiled.resets import starts_of
from keelback.delta._op import delta_rule_of, step
from keelback.delta._operands import Operands


def delta_rule(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"],
    beta: Float[Tensor, "batch length heads"],
    initial_states: Float[Tensor, "batch heads key value"] | None = None,
    return_final_states: bool = False,
    *,
    normalise: bool = False,
    scale: float | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
    cu_seqlens: Int[Tensor, " boundaries"] | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    backend: Literal["reference", "cpu", "cuda", "chunked"] | None = None,
) -> (
    Float[Tensor, "batch length heads value"]
    | tuple[Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads key value"]]
):
    """The gated delta rule (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, equation 10).

        h_t = (I - beta_t k_t k_t^T) exp(g_t) h_{t-1} + beta_t k_t v_t^T      y_t = scale h_t^T q_t

    with a matrix h (key, value) per head. With one log decay per key channel, exp(g_t) is a
    diagonal matrix: Kimi delta attention (arXiv 2510.26692, equation 1). Differentiable in every
    floating operand. float32 and float64 are computed as they are, bfloat16 and float16 in float32;
    on a GPU products have bfloat16 or float16 factors then, and states stay float32.
    Steps are computed by chunks of up to 64: an inf or nan in an operand is in all later outputs
    that the recurrence has it in, and may be in earlier ones of its chunk, which
    `backend="reference"` keeps apart.

    Args:
        q: The queries. The number of groups divides that of heads; head h reads with group
            h // (heads / groups).
        k: The keys, grouped as q. With keys of norm 1, a beta of 1 replaces what the state holds
            along the key, and one of 2 reflects it.
        v: The values.
        g: The log decay, zero or less where the states decay; per head or per key channel.
        beta: How much of the error of the state along the key is written.
        initial_states: The states before the first step; zero if absent.
        return_final_states: Whether to return the states after the last step too.
        normalise: Whether q and k are divided by their norms, sqrt(|q|^2 + 1e-6), before use.
        scale: By what the queries are multiplied; one over the root of the key's size if absent.
        reset: True where a new sequence starts: the state before that step is zero.
        cu_seqlens: Bounds (0, ..., length) of the sequences packed into a batch of one, another
            way to write `reset`. The initial states are those of the first sequence, the final
            states those of the last one.
        seq_idx: The number of each step's sequence, a third way: a new one starts where it changes.
        backend: "reference" (plain PyTorch, step by step), "chunked" (plain PyTorch, by chunks of
            matrix products, on any device), "cpu" or "cuda". If absent, the one for the device of
            v. On a GPU, what the kernels do not take is computed by "chunked": float64, float32
            with a decay per key channel, keys longer than 128 or no multiple of 32 (in float32, of
            64), values longer than 256 or no multiple of 8.

    Returns:
        y in the dtype of v, or (y, final states). The states are float32, or float64 if all is.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> q, k = torch.randn(2, 100, 2, 32), torch.randn(2, 100, 2, 32)
        >>> v, g, beta = torch.randn(2, 100, 4, 64), -torch.rand(2, 100, 4), torch.rand(2, 100, 4)
        >>> delta_rule(q, k, v, g, beta, normalise=True).shape
        torch.Size([2, 100, 4, 64])
    """
    mask = starts_of(reset, cu_seqlens, seq_idx, v, ("batch", "length", "heads", "value"), "v")
    operands = Operands(q, k, v, g, beta, initial_states, mask)
    y, final = delta_rule_of(operands, bool(normalise), finite_scale(scale, k), backend)
    return (y, final) if return_final_states else y


def delta_rule_step(
    states: Float[Tensor, "batch heads key value"],
    q: Float[Tensor, "batch groups key"],
    k: Float[Tensor, "batch groups key"],
    v: Float[Tensor, "batch heads value"],
    g: Float[Tensor, "batch heads"] | Float[Tensor, "batch heads key"],
    beta: Float[Tensor, "batch heads"],
    *,
    normalise: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch heads value"], Float[Tensor, "batch heads key value"]]:
    """Advance `delta_rule` by one position: the output there, and the new states.

    The operands are those of `delta_rule` without the axis of the length. Start from zeros, or from
    the final states that `delta_rule` returns for the prompt; `states` itself is left as it is.

    Returns:
        The output in the dtype of v, and the states after the step, float32 or float64, from which
        the next step goes on. Gradients go through both.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> states = torch.zeros(1, 2, 4, 3)
        >>> q, k, v = torch.randn(1, 2, 4), torch.randn(1, 2, 4), torch.randn(1, 2, 3)
        >>> g, beta = torch.zeros(1, 2), torch.full((1, 2), 0.5)
        >>> y, states = delta_rule_step(states, q, k, v, g, beta)
        >>> y.shape, states.shape
        (torch.Size([1, 2, 3]), torch.Size([1, 2, 4, 3]))
    """
    operands = Operands(q, k, v, g, beta, states)
    return step(operands, bool(normalise), finite_scale(scale, k))
