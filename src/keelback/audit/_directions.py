"""Which way round each layer is given the text, in models that run layers on reversed sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.audit._arguments import given
from keelback.audit._layers import Layer
from keelback.audit._losses import LanguageModel
from keelback.audit._parameters import whole

_PROBE = 48
"""Tokens of the trial passes."""
_WHERE = (0.15, 0.3, 0.6)
"""Where one token is replaced, as shares of the probe's length."""

FORWARD, REVERSED, UNKNOWN = "forward", "reversed", "unknown"


@torch.no_grad()
def input_orders(
    language_model: LanguageModel, layers: Sequence[Layer], tokens: Int[Tensor, "batch length"]
) -> Mapping[int, str]:
    """For each layer, by its index, whether its input stands in the order of the text.

    A token is replaced, and the position where a layer's input changes most is where that token
    comes: at its own place, or as far from the end. Three tokens are tried, one at a time; unless
    all of them tell the same, of every call of the layer, its order is unknown.
    """
    probe = tokens[:1, :_PROBE]
    length = probe.shape[1]
    places = sorted({int(share * length) for share in _WHERE} - {(length - 1) / 2})
    if length < 4 or len(probe.unique()) < 2:
        return dict.fromkeys((layer.index for layer in layers), UNKNOWN)
    tried = probe.repeat(1 + len(places), 1)
    for row, place in enumerate(places, start=1):
        tried[row, place] = next(t for t in probe[0].tolist() if t != probe[0, place])
    found: dict[int, list[str]] = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = whole(next(iter(given(module, args, kwargs).values())))
        told = found.setdefault(id(module), [])
        if x.ndim != 3 or x.shape[:2] != tried.shape:
            told.append(UNKNOWN)
            return
        told += [_order(x[row] - x[0], place) for row, place in enumerate(places, start=1)]

    modules = {id(layer.module): layer.module for layer in layers}
    handles = [m.register_forward_pre_hook(look, with_kwargs=True) for m in modules.values()]
    try:
        language_model.logits(tried)
    finally:
        for handle in handles:
            handle.remove()
    orders = {layer.index: set(found.get(id(layer.module), [])) for layer in layers}
    return {index: told.pop() if len(told) == 1 else UNKNOWN for index, told in orders.items()}


def _order(change: Float[Tensor, "length d_model"], place: int) -> str:
    most = int(change.float().norm(dim=-1).argmax())
    if most == place:
        return FORWARD
    return REVERSED if most == len(change) - 1 - place else UNKNOWN
