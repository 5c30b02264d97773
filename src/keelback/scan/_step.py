"""One step of the recurrence, for decoding."""

from jaxtyping import Float
from torch import Tensor

from keelback.scan._op import step
from keelback.scan._operands import Operands


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

    Examples:
        >>> state, u, delta = torch.zeros(2, 4, 3), torch.randn(2, 4), torch.full((2, 4), 0.1)
        >>> A, B, C = -torch.ones(4, 3), torch.randn(2, 1, 3), torch.randn(2, 1, 3)
        >>> y, state = selective_scan_step(state, u, delta, A, B, C)
        >>> y.shape, state.shape
        (torch.Size([2, 4]), torch.Size([2, 4, 3]))
    """
    operands = Operands(u, delta, A, B, C, D, z, delta_bias, state)
    return step(operands, delta_softplus, in_place=False)
