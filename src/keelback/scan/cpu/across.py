"""A process's part of a long scan on a CPU, in two halves with an exchange between them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.decay import decay_over
from keelback.compiled.layouts import signature_of
from keelback.scan._operands import Operands
from keelback.scan.cpu.launch import prepare

#: Steps whose sizes are summed up together.
_CHUNK = 512


class ForwardPart:
    """A part scanned without the state before it.

    Attributes:
        end: The state after the part, (batch, channels, state).
        decay: What remains after the part of a state before it; see `_decay`.
        felt: How many of the first steps feel the state before them.
    """

    def __init__(self, operands: Operands[Tensor], softplus: bool) -> None:
        self._operands, self._softplus = operands, softplus
        self._y, self.end = _scan(operands, softplus)
        self.decay, self.felt = _decay_of(operands, softplus)

    def output(self, start: Float[Tensor, "batch channels state"]) -> Tensor:
        """The output, given the state before the part."""
        first = _first_steps(self.felt, self._operands)._replace(initial_state=start)
        self._y[:, : self.felt] = _scan(first, self._softplus)[0]
        return self._y


class BackwardPart:
    """A part whose gradients need that of the state after it.

    Attributes:
        of_start: The gradient of the state before the part, as far as it comes from `dy`.
    """

    def __init__(self, dy: Tensor, operands: Operands[Tensor], softplus: bool, felt: int) -> None:
        self._given = (dy, operands, softplus)
        first = _first_steps(felt, operands)
        of_start = _gradients(dy[:, :felt], None, first, softplus)[-1]
        assert of_start is not None
        self.of_start = of_start

    def gradients(self, of_last: Float[Tensor, "batch channels state"]) -> list[Tensor | None]:
        """Of the operands from u to delta_bias, given that of the state after the part."""
        dy, operands, softplus = self._given
        return _gradients(dy, of_last, operands, softplus)[:-1]


#: Operands that have a length.
_ALONG = ("u", "delta", "B", "C", "z", "reset")


def _first_steps(steps: int, operands: Operands[Tensor]) -> Operands[Tensor]:
    given = operands._asdict()
    return operands._replace(
        **{name: given[name][:, :steps] for name in _ALONG if given[name] is not None}
    )


def _scan(operands: Operands[Tensor], softplus: bool) -> tuple[Tensor, Tensor]:
    call = prepare(signature_of(operands), (softplus,))
    return call.forward(operands, False)[:2]


def _gradients(
    dy: Tensor, dlast: Tensor | None, operands: Operands[Tensor], softplus: bool
) -> list[Tensor | None]:
    """Of u, ..., delta_bias and the initial state."""
    call = prepare(signature_of(operands), (softplus,))
    return list(call.backward((dy, dlast), (None,), operands))


def _decay_of(operands: Operands[Tensor], softplus: bool) -> tuple[Tensor, int]:
    """What remains of a state after the part, and how many steps feel the state before it."""
    u, delta, A, *_ = operands
    reset = operands.reset
    batch, length, channels = u.shape
    if u.numel() == 0 or A.numel() == 0:
        return torch.ones(batch, channels, A.shape[1], dtype=A.dtype), 0
    elapsed = _elapsed(delta, operands.delta_bias, softplus, A.dtype).cumsum(1)
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
