"""The public selective scan."""

from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.checks import require_shape
from keelback.compiled.resets import reset_of
from keelback.compiled.scripting import for_script
from keelback.errors import InputError
from keelback.scan._op import scan
from keelback.scan._operands import Operands


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

    Examples:
        >>> u, delta = torch.randn(2, 50, 4), torch.full((2, 50, 4), 0.1)
        >>> A = -torch.ones(4, 3)
        >>> B, C = torch.randn(2, 50, 1, 3), torch.randn(2, 50, 1, 3)
        >>> selective_scan(u, delta, A, B, C).shape
        torch.Size([2, 50, 4])
    """
    if cu_seqlens is not None:
        require_shape("u", u, ("batch", "length", "channels"))
        reset = reset_of(cu_seqlens, reset, u)
    operands = Operands(u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    y, last_state = scan(operands, delta_softplus, backend)
    return (y, last_state) if return_last_state else y


def _refuse_state(*arguments: Any, **named: Any) -> None:
    if named.get("return_last_state") or (len(arguments) > 10 and arguments[10]):
        raise InputError("in TorchScript selective_scan returns y alone: no return_last_state")


for_script(
    "(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, Tensor? z=None, "
    "Tensor? delta_bias=None, bool delta_softplus=False, Tensor? initial_state=None, "
    "bool return_last_state=False, *, Tensor? reset=None, Tensor? cu_seqlens=None, "
    "str? backend=None) -> Tensor",
    selective_scan,
    _refuse_state,
)
