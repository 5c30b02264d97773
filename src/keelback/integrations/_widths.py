"""Operands of one type where any of them is float64: transformers keeps A and steps in float32."""

from typing import Any

import torch
from torch import Tensor


def in_one_width(*operands: Tensor | None) -> list[Any]:
    """All in float64 if any is; as they are otherwise."""
    if not any(x is not None and x.dtype == torch.float64 for x in operands):
        return list(operands)
    return [None if x is None else x.double() for x in operands]
