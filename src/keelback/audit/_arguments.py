"""What a module was called with, by the names of its own signature."""

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MethodType
from typing import Any

from torch import nn


def given(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a module was called with, by the names of its own signature, its input first."""
    try:
        bound = _signature_of(module).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        bound = {**{f"argument {i}": value for i, value in enumerate(args)}, **kwargs}
    arguments: dict[str, Any] = {}
    for name, value in bound.items():
        if name == "kwargs" and isinstance(value, dict):
            arguments |= value
        elif name == "args" and isinstance(value, tuple):
            arguments |= {f"argument {i}": one for i, one in enumerate(value)}
        else:
            arguments[name] = value
    own = arguments.pop("hidden_states", None)
    return arguments if own is None else {"hidden_states": own, **arguments}


def _signature_of(module: nn.Module) -> inspect.Signature:
    """That of the module's `forward`, worked out once for each function."""
    forward: Any = module.forward
    function = getattr(forward, "__func__", None)
    if function is None or getattr(forward, "__self__", None) is not module:
        return inspect.signature(forward)
    return _bound_signature(function)


@lru_cache(maxsize=1024)
def _bound_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method, without `self`."""
    return inspect.signature(MethodType(function, object()))
