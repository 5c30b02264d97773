"""Gradient checkpointing: a model's layers computed again in the backward pass instead of kept."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from keelback.errors import InputError


def recompute_layers(model: nn.Module) -> None:
    """Let the repeated layers of `model` keep their input alone, and compute the rest again.

    The layers are the elements of its `nn.ModuleList`s with more than one parameter each. The
    numbers stay the same; the memory of a training step grows with the number of layers by one
    input each, and its time by about a third.

    Raises:
        InputError: the model has no repeated layers.

    Examples:
        >>> from keelback.models import MambaClassifierConfig
        >>> model = MambaClassifierConfig(vocab_size=16, d_model=8, n_layers=2).build()
        >>> recompute_layers(model)
    """
    layers = [
        layer
        for group in model.modules()
        if isinstance(group, nn.ModuleList)
        for layer in group
        if len(list(layer.parameters())) > 1
    ]
    if not layers:
        raise InputError(
            f"gradient checkpointing needs repeated layers, and a {type(model).__name__} has none"
        )
    for layer in layers:
        _recompute(layer)


def _recompute(layer: nn.Module) -> None:
    """Give the parameters that the layer has now to its later computation.

    Inside `functional_call` they are others than the layer's own, and are gone by the time of the
    backward pass.
    """
    plain = layer.forward

    def compute(parameters: dict[str, Tensor], *inputs: Any) -> Any:
        layer.forward = plain
        try:
            return functional_call(layer, parameters, inputs)
        finally:
            layer.forward = forward

    def forward(*inputs: Any) -> Any:
        return checkpoint(compute, dict(layer.named_parameters()), *inputs, use_reentrant=False)

    layer.forward = forward
