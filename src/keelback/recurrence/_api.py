"""The diagonal recurrence."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from keelback.compiled.backends import choose_backend
from keelback.compiled.checks import computing_dtype, require_shape
from keelback.compiled.watchers import without_autocast
from keelback.recurrence._op import BACKENDS, RECURRENCE
from keelback.recurrence.reference import diagonal_recurrence_reference


def diagonal_recurrence(
    a: Float[Tensor, "batch length channels"],
    x: Float[Tensor, "batch length channels"],
    initial_state: Float[Tensor, "batch channels"] | None = None,
    *,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> Float[Tensor, "batch length channels"]:
    """Each channel's state decays by a factor of its own at every step, and takes in x.

        h_t = a_t h_{t-1} + x_t

    This is the recurrence of the RG-LRU (De et al. 2024, arXiv 2402.19427), whose layers
    scale the input before. A factor of 0 begins a new sequence. On a GPU the states are
    found by doubling, in products of the factors of 1, 2, 4, ... steps: these should not overflow,
    as they cannot where no factor is larger than 1.

    Args:
        a: The factors.
        x: The inputs.
        initial_state: The states before the first step; zeros if absent.
        backend: "reference" (plain PyTorch, step by step), "cpu" (compiled) or "cuda" (by
            doubling); if absent, the one for the device of x.

    Returns:
        The states after each step, in the dtype of x; half precision is computed in float32.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> diagonal_recurrence(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    require_shape("x", x, ("batch", "length", "channels"))
    require_shape("a", a, x.shape)
    batch, _, channels = x.shape
    if initial_state is not None:
        require_shape("initial_state", initial_state, (batch, channels))
    dtype = computing_dtype({"x": x, "a": a, "initial_state": initial_state})
    first = (
        x.new_zeros(batch, channels, dtype=dtype)
        if initial_state is None
        else initial_state.to(dtype)
    )
    chosen = choose_backend(backend, x.device, BACKENDS, "x")
    operands = (a.to(dtype), x.to(dtype), first)
    if chosen is None:
        with without_autocast(x.device):
            return diagonal_recurrence_reference(*operands).to(x.dtype)
    (h,) = RECURRENCE(operands)
    return h.to(x.dtype)
