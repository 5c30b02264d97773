"""Public functions as TorchScript sees them: it cannot read their source, and calls an operator."""

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("keelback", "FRAGMENT")


def _never(*arguments: Any, **named: Any) -> None:
    """Refuse nothing."""


def for_script(
    schema: str, function: Callable[..., Any], refuse: Callable[..., None] = _never
) -> None:
    """Have `torch.jit.script` call `function` where a scripted function does.

    Args:
        schema: Its arguments and the one type of its result, as an operator's, without the name.
        function: A public function.
        refuse: Raises where, by its arguments, the function's result would be of another type.
    """
    name = f"scripted_{function.__name__}"

    def call(*arguments: Any, **named: Any) -> Any:
        refuse(*arguments, **named)
        return function(*arguments, **named)

    _library.define(f"{name}{schema}")
    _library.impl(name, call, "CompositeImplicitAutograd")
    register = getattr(getattr(torch.jit, "_builtins", None), "_register_builtin", None)
    if register is not None:  # TorchScript is on its way out of PyTorch.
        register(function, f"keelback::{name}")
