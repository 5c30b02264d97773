"""A process's part of a long scan on a CPU, in two halves with an exchange between them."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.replicas import one_replica
from keelback.scan._decay import decay_over
from keelback.scan._op import run_scan, run_scan_backward

#: Steps whose sizes are summed up together.
_CHUNK = 512


class ForwardPart:
    """A part scanned without the state before it.

    Attributes:
        end: The state after the part, (batch, channels, state).
        decay: What remains after the part of a state before it; see `_decay`.
        felt: How many of the first steps feel the state before them.
    """

    def __init__(self, parameters: Any, reset: Tensor | None, softplus: bool) -> None:
        self._operands = (parameters, reset, softplus)
        self._y, self.end = _scan(*parameters, None, reset, softplus)
        u, delta, A, *_, delta_bias = parameters
        self.decay, self.felt = _decay_of(u, delta, A, delta_bias, reset, softplus)

    def output(self, start: Float[Tensor, "batch channels state"]) -> Tensor:
        """The output, given the state before the part."""
        parameters, reset, softplus = self._operands
        first = _first_steps(self.felt, *parameters)
        self._y[:, : self.felt] = _scan(*first, start, _upto(reset, self.felt), softplus)[0]
        return self._y


class BackwardPart:
    """A part whose gradients need that of the state after it.

    Attributes:
        of_start: The gradient of the state before the part, as far as it comes from `dy`.
    """

    def __init__(
        self,
        dy: Tensor,
        start: Float[Tensor, "batch channels state"],
        parameters: Any,
        reset: Tensor | None,
        softplus: bool,
        felt: int,
    ) -> None:
        self._operands = (dy, start, parameters, reset, softplus)
        first = _first_steps(felt, *parameters)
        self.of_start = _gradients(dy[:, :felt], None, *first, start, _upto(reset, felt), softplus)[
            -1
        ]

    def gradients(self, of_last: Float[Tensor, "batch channels state"]) -> list[Tensor | None]:
        """Of the parameters, given that of the state after the part."""
        dy, start, parameters, reset, softplus = self._operands
        return _gradients(dy, of_last, *parameters, start, reset, softplus)[:-1]


#: Of u, delta, A, B, C, D, z and delta_bias, which have a length.
_WITH_LENGTH = (True, True, False, True, True, False, True, False)


def _upto(x: Tensor | None, steps: int) -> Tensor | None:
    return None if x is None else x[:, :steps]


def _first_steps(steps: int, *parameters: Tensor | None) -> list[Any]:
    return [
        _upto(x, steps) if long else x for x, long in zip(parameters, _WITH_LENGTH, strict=True)
    ]


def _scan(*operands: Any) -> tuple[Tensor, Tensor]:
    y, last, _ = run_scan(*one_replica(*operands), False)
    return y.squeeze(0), last.squeeze(0)


def _gradients(dy: Tensor, dlast: Tensor | None, *operands: Any) -> list[Tensor | None]:
    """Of u, ..., delta_bias and the initial state."""
    replicated = one_replica(dy, dlast, *operands)
    checkpoints = run_scan(*replicated[2:], True)[2]
    found = run_scan_backward(*replicated[:2], checkpoints, *replicated[2:])
    return [
        None if x is None else gradient.squeeze(0)
        for x, gradient in zip(operands, found, strict=False)
    ]


def _decay_of(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    delta_bias: Tensor | None,
    reset: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, int]:
    """What remains of a state after the part, and how many steps feel the state before it."""
    batch, length, channels = u.shape
    if u.numel() == 0 or A.numel() == 0:
        return torch.ones(batch, channels, A.shape[1], dtype=A.dtype), 0
    elapsed = _elapsed(delta, delta_bias, softplus, A.dtype).cumsum(1)
    total = elapsed[:, -1]
    slowest = torch.maximum(elapsed * A.amax(1), elapsed * A.amin(1)).amax(-1)
    dead = slowest < math.log(torch.finfo(A.dtype).tiny)
    ends = _CHUNK * torch.arange(1, dead.shape[1] + 1)
    felt = torch.where(dead, 0, ends).amax(1) + _CHUNK
    if reset is not None:
        cut = reset.any(1)
        total = torch.where(cut[:, None], torch.inf, total)
        felt = torch.where(cut, reset.int().argmax(1).minimum(felt), felt)
    return decay_over(total, A), min(length, int(felt.amax()))


def _elapsed(
    delta: Tensor, delta_bias: Tensor | None, softplus: bool, dtype: torch.dtype
) -> Float[Tensor, "batch chunks #channels"]:
    """The sums of the step sizes over each `_CHUNK` steps."""
    bias = delta.new_zeros(delta.shape[2], dtype=dtype) if delta_bias is None else delta_bias
    chunks = [_elapsed_over(x, bias, softplus) for x in delta.split(_CHUNK, dim=1)]
    return torch.stack(chunks, dim=1)


def _elapsed_over(delta: Tensor, bias: Tensor, softplus: bool) -> Float[Tensor, "batch #channels"]:
    sizes = delta.to(bias.dtype) + bias
    return (F.softplus(sizes) if softplus else sizes).sum(1)
