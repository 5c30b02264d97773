"""The `forward` of transformers' root-mean-square norms: by its code a class is known.

A digest stands for the code. What each form computes is compared with the classes that have the
code in tests/integrations/test_transformers_norms.py.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Form:
    """What a `forward` computes.

    Attributes:
        gated: Whether it takes a gate.
        needs_gate: Whether it fails without one.
        rounded: Whether normalised numbers are rounded before the weight multiplies them.
        promoted: Whether the output has the wider dtype of both.
        norm_before_gate: Whether a layer's gate multiplies last.
        group_size: Channels of a layer's group, of so many in all; 0 for all.
    """

    gated: bool = False
    needs_gate: bool = False
    rounded: bool = False
    promoted: bool = False
    norm_before_gate: Callable[[Any], bool] = lambda layer: False
    group_size: Callable[[Any, int], int] = lambda layer, channels: 0


#: By the digest of the code; above each, classes of transformers that have it.
_FORMS: dict[str, Form] = {
    # JambaRMSNorm and most others
    "075c8d1982795b4a": Form(rounded=True, promoted=True),
    # NemotronHRMSNorm
    "f3c969785666d4c0": Form(),
    # FlexOlmoRMSNorm
    "2c29d28177dec537": Form(),
    # MambaRMSNormGated before it had groups
    "e8bb712cc5bd33fc": Form(gated=True, rounded=True, promoted=True),
    # MambaRMSNormGated, Zamba2RMSNormGated
    "09a14d3b92329968": Form(
        gated=True,
        rounded=True,
        promoted=True,
        group_size=lambda layer, channels: layer.group_size,
    ),
    # FalconH1RMSNormGated
    "82a94c5bfaa0188f": Form(
        gated=True,
        norm_before_gate=lambda layer: layer.norm_before_gate,
        group_size=lambda layer, channels: channels // layer.n_groups,
    ),
    # Qwen3NextRMSNormGated
    "b33855c5b728f9dc": Form(
        gated=True, needs_gate=True, rounded=True, norm_before_gate=lambda layer: True
    ),
    # KimiLinearRMSNormGated
    "815c79681962b945": Form(gated=True, needs_gate=True, norm_before_gate=lambda layer: True),
}


def form_of(forward: Any) -> Form | None:
    """What a class's `forward` computes, if its code is one that is known here."""
    if not isinstance(forward, FunctionType) or hasattr(forward, "__wrapped__"):
        return None
    code = _code_of(forward)
    return None if code is None else _FORMS.get(hashlib.sha256(code.encode()).hexdigest()[:16])


def _code_of(function: Callable[..., Any]) -> str | None:
    """A function's code without its name, annotations, defaults, comments and docstring."""
    try:
        parsed = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    if not isinstance(parsed, ast.FunctionDef) or parsed.decorator_list:
        return None
    names = [one.arg for one in parsed.args.args]
    body = parsed.body[1:] if ast.get_docstring(parsed) else parsed.body
    return "\n".join([", ".join(names), *map(ast.unparse, body)])
