"""What a pass of a model shows to those who watch its layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from keelback.audit import find_layers, watching
from keelback.audit._replay import Replay

Build = Callable[[str], nn.Module]
"""Builds the tiny model of a family by name."""


def recurrences(model: nn.Module, tokens: torch.Tensor, **options: Any) -> list[Any]:
    """The recurrence of every layer, in the order of the pass."""
    seen: list[Any] = []
    with torch.no_grad(), watching(find_layers(model), lambda _, __, r: seen.append(r)):
        model(tokens, **{"use_cache": False, **options})
    return seen


def proofs(layer: nn.Module, x: torch.Tensor) -> list[Replay]:
    """How well each layer's recurrence, run again, gives what the layer hands on."""
    found: list[Replay] = []
    with (
        torch.no_grad(),
        watching(find_layers(layer), lambda *_: None, lambda _, replay: found.append(replay)),
    ):
        layer(x)
    return found
