"""The norms that transformers' families have, and layers of them to compute with."""

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from keelback.integrations import use_in_transformers
from keelback.integrations._transformers import (
    FAMILIES,
    FAMILIES_BY_HEADS,
    FAMILIES_OF_DELTA_RULES,
    FAMILIES_OF_KIMI_DELTA,
)

MODULES = (
    *FAMILIES,
    *FAMILIES_BY_HEADS,
    *FAMILIES_OF_DELTA_RULES,
    *FAMILIES_OF_KIMI_DELTA,
)
CHANNELS = 48


def module_of(family: str) -> Any:
    """transformers' module of a family, or None where it is not there."""
    try:
        return importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError:
        return None


def known_norms() -> dict[str, type[nn.Module]]:
    """The classes whose `forward` is replaced, by their full names."""
    with use_in_transformers() as replaced:
        names = [name for name in replaced.names if "Norm" in name]
    found = {}
    for name in names:
        module, layer, _ = name.rsplit(".", 2)
        found[f"{module}.{layer}"] = getattr(importlib.import_module(module), layer)
    return found


def make_layer(kind: type[nn.Module], dtype: torch.dtype, **settings: Any) -> nn.Module:
    """A norm with groups, if it knows any, and with a random weight."""
    offered = {"group_size": CHANNELS // 4, "n_groups": 4, **settings}
    taken = inspect.signature(kind.__init__).parameters
    layer = kind(CHANNELS, **{name: value for name, value in offered.items() if name in taken})
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.to(dtype)


def takes_gate(kind: type[nn.Module]) -> bool:
    """Whether a layer's `forward` has a gate."""
    return "gate" in inspect.signature(kind.forward).parameters


def inputs_of(kind: type[nn.Module], dtype: torch.dtype) -> list[Tensor]:
    """The hidden states and, if it takes one, the gate, as slices of a projection."""
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(2, 5, 2 * CHANNELS + 8, generator=generator).to(dtype)
    both = [projected[..., 4 : 4 + CHANNELS], projected[..., -CHANNELS:]]
    return both[: 2 if takes_gate(kind) else 1]


def results_of(layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of inputs and weight."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = layer(*leaves)
    generator = torch.Generator().manual_seed(2)
    dy = torch.randn(y.shape, generator=generator).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [*leaves, *layer.parameters()], dy)]
