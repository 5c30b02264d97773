"""What models keep of the tokens before, under the names of each release of transformers."""

import inspect
from typing import Any

from torch import nn

NAMES = ("cache", "past_key_values", "cache_params", "state")


def kept(output: Any) -> dict[str, Any]:
    """What a model gives beside its logits, as the argument that takes it again."""
    name = next(name for name in NAMES if getattr(output, name, None) is not None)
    return {name: getattr(output, name)}


def given(model: nn.Module, cache: Any) -> dict[str, Any]:
    """A cache as the argument that the model takes it by."""
    parameters = inspect.signature(model.forward).parameters
    return {next(name for name in NAMES if name in parameters): cache}
