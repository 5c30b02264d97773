"""A call of each operator, on small inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from keelback.conv import causal_conv1d
from keelback.delta import delta_rule
from keelback.norm import gated_rms_norm
from keelback.scan import selective_scan
from keelback.ssd import ssd


def normal(seed: int, *size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return causal_conv1d(x, weight, bias, "silu")


X = normal(0, 2, 9, 6)
HEADS = [normal(seed, 2, 9, 2, 8) for seed in range(3)]
CASES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "selective_scan": (
        selective_scan,
        (X, X.abs(), -normal(1, 6, 3).abs(), normal(2, 2, 9, 1, 3), normal(3, 2, 9, 1, 3)),
    ),
    "causal_conv1d": (convolved, (X, normal(1, 6, 4), normal(2, 6))),
    "gated_rms_norm": (gated_rms_norm, (X, normal(1, 2, 9, 6), normal(2, 6))),
    "ssd": (
        ssd,
        (HEADS[0], normal(4, 2, 9, 2).abs(), -normal(5, 2).abs(), HEADS[1], HEADS[2]),
    ),
    "delta_rule": (
        delta_rule,
        (*HEADS, -normal(4, 2, 9, 2).abs(), normal(5, 2, 9, 2).sigmoid()),
    ),
}
