"""The public selective scan."""

from jaxtyping import Bool, Float
from torch import Tensor

from keelback.scan._reference import selective_scan_reference


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
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective scan (being replaced by the dispatching version)."""
    y, last_state = selective_scan_reference(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset
    )
    return (y, last_state) if return_last_state else y
