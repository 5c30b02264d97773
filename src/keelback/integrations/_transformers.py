"""keelback's scan in the Mamba-family models of Hugging Face transformers."""

import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from keelback.errors import InputError
from keelback.integrations._replacement import Replacement
from keelback.scan import selective_scan_fn, selective_state_update

#: The model families of transformers whose layers call a selective scan with a diagonal A.
FAMILIES = ("mamba", "falcon_mamba", "jamba", "zamba")
_SCAN = "mamba_selective_scan"
_STEP = "mamba_selective_state_update"


def use_in_transformers() -> Replacement:
    """Let transformers' Mamba, FalconMamba, Jamba and Zamba models scan with keelback.

    Neither mamba-ssm nor causal-conv1d needs to be installed. The functions are replaced in
    transformers' modules, so that models made before the call use keelback's scan as well as those
    made after it, on CPU and GPU, in training and generation, until the result is undone:

        with keelback.integrations.use_in_transformers():
            model.generate(...)

    Raises:
        InputError: transformers is not installed, or is of a version whose models are built
            otherwise.
    """
    if find_spec("transformers") is None:
        raise InputError("transformers is not installed: pip install 'keelback[hf]'")
    replacement = Replacement()
    for family in FAMILIES:
        module = _modeling(family)
        if module is not None and hasattr(module, _SCAN) and hasattr(module, _STEP):
            replacement.attribute(module, _SCAN, _selective_scan)
            replacement.attribute(module, _STEP, _state_update)
    if not replacement.names:
        version = importlib.import_module("transformers").__version__
        raise InputError(
            f"transformers {version} has no function {_SCAN} in its Mamba models; 5.20 or newer has"
        )
    return replacement


def _modeling(family: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError:
        return None


def _selective_scan(
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
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mamba_selective_scan` of transformers; its other options choose among its own slow paths."""
    _refuse_packed(options)
    scanned: Tensor | tuple[Tensor, Tensor] = selective_scan_fn(
        hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
    )
    return scanned


def _state_update(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`mamba_selective_state_update` of transformers: overwrites `state`."""
    _refuse_packed(options)
    with torch.no_grad():
        return selective_state_update(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _refuse_packed(options: dict[str, Any]) -> None:
    for name in ("cu_seqlens", "seq_idx"):
        if options.get(name) is not None:
            raise InputError(
                f"{name} is given to a Mamba layer of transformers; packed sequences are not "
                "kept apart there: pad them, or call keelback.selective_scan with cu_seqlens"
            )
