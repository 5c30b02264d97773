"""Running transformers' Mamba layers through keelback's scan while an audit lasts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from keelback.scan import selective_scan


def _mamba_selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """transformers' fallback of the same name: (batch, channels, length) in place of ours."""
    u, delta = (x.transpose(1, 2).float() for x in (hidden_states, dt))
    B, C = (x.transpose(1, 2).unsqueeze(2).float() for x in (B, C))
    result = selective_scan(
        u,
        delta,
        A.float(),
        B,
        C,
        D,
        None if z is None else z.transpose(1, 2).float(),
        delta_bias,
        delta_softplus,
        return_last_state=True,
    )
    y = result[0].transpose(1, 2).to(hidden_states.dtype)
    return (y, result[1]) if return_last_state else y


@contextmanager
def fast_scans(model: nn.Module) -> Iterator[None]:
    """Within the block, Mamba layers of transformers run their scan by `keelback.scan`."""
    name = "mamba_selective_scan"
    modules = {sys.modules[type(part).__module__] for part in model.modules()}
    slow = {module: getattr(module, name) for module in modules if hasattr(module, name)}
    for module in slow:
        setattr(module, name, _mamba_selective_scan)
    try:
        yield
    finally:
        for module, function in slow.items():
            setattr(module, name, function)
