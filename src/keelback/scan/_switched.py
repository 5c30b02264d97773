"""The scan of token sequences over a small vocabulary, as a linear system that the tokens switch.

Where everything that enters the selective scan is a function of the token, its step has as many
values as there are tokens: they are tabulated once, and the scan looks them up.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from keelback.compiled import LANES
from keelback.compiled.checks import require_shape
from keelback.compiled.scratch import aligned_scratch
from keelback.compiled.threads import run_ranges
from keelback.compiled.watchers import inside_transform
from keelback.errors import InputError

_DTYPES = (torch.float32, torch.float64)
_NANOSECONDS_FORWARD, _NANOSECONDS_BACKWARD = 1.5, 6.0


def can_switch(parameter: Tensor) -> bool:
    """Whether `switched_scan` takes tables made from this parameter, here and now.

    It does on the CPU, in float32 and float64, outside the transforms of `torch.func`.

    Examples:
        >>> can_switch(torch.zeros(3, dtype=torch.float32))
        True
    """
    return parameter.device.type == "cpu" and parameter.dtype in _DTYPES and not inside_transform()


def switched_scan(
    tokens: Int[Tensor, "*replicas batch length"],
    decay: Float[Tensor, "*replicas vocab states"],
    drive: Float[Tensor, "*replicas vocab states"],
) -> Float[Tensor, "*replicas batch states"]:
    """The state after the last token of `h_t = decay[v_t] h_{t-1} + drive[v_t]`, from zero.

    With a leading axis, many systems of one shape, each with tokens of its own, are one scan.
    Differentiable once, in both tables; not for the transforms of `torch.func`. On the CPU, in
    float32 or float64; the time does not depend on the size of the vocabulary as long as the tables
    fit into the cache.

    Raises:
        InputError: an operand has the wrong shape, dtype or device, or a token is not in 0, ...,
            vocab - 1.

    Examples:
        >>> tokens = torch.tensor([[0, 1, 1]])
        >>> decay, drive = torch.full((2, 3), 0.5), torch.ones(2, 3)
        >>> switched_scan(tokens, decay, drive).shape  # batch, states
        torch.Size([1, 3])
    """
    require_shape("tokens", tokens, ("batch", "length"), ("replicas", "batch", "length"))
    replicas = tokens.shape[:-2]
    require_shape("decay", decay, (*replicas, "vocab", "states"))
    require_shape("drive", drive, tuple(decay.shape))
    for name, table in (("decay", decay), ("drive", drive)):
        if table.dtype not in _DTYPES or table.dtype != decay.dtype:
            raise InputError(
                f"{name} has dtype {table.dtype}; both tables should be float32 or float64"
            )
        if table.device.type != "cpu":
            raise InputError(f"{name} is on {table.device}; the switched scan runs on the CPU")
    if replicas:
        return _SwitchedScan.apply(tokens, decay, drive)  # type: ignore[no-untyped-call]
    one_replica = (x.unsqueeze(0) for x in (tokens, decay, drive))
    return _SwitchedScan.apply(*one_replica).squeeze(0)  # type: ignore[no-untyped-call]


class _SwitchedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, decay: Tensor, drive: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, decay, drive)
        return _forward(tokens, decay, drive)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlast: Tensor) -> tuple[None, Tensor, Tensor]:
        return (None, *_backward(dlast, *ctx.saved_tensors))


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _units(rows: int, replicas: int, states: int) -> tuple[int, int]:
    """Into how many pieces the rows of a replica are cut, and how many units there are in all."""
    from keelback.scan.cpu.switched import ROWS

    pieces = -(-rows // ROWS)
    return pieces, replicas * pieces * -(-states // LANES)


def _as_index(tokens: Tensor) -> Tensor:
    return tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.int()


def _forward(tokens: Tensor, decay: Tensor, drive: Tensor) -> Tensor:
    from keelback.scan.cpu import switched as kernels

    replicas, rows, _ = tokens.shape
    vocab, states = decay.shape[1:]
    last = decay.new_empty(replicas, rows, states)
    indices, *tables, out = _arrays(_as_index(tokens), decay, drive, last)
    outside = kernels.count_outside(indices, vocab)
    if outside:
        raise InputError(f"{outside} tokens are not in 0, ..., {vocab - 1}")
    _, units = _units(rows, replicas, states)

    def work(start: int, stop: int) -> None:
        scratch = aligned_scratch(kernels.forward_scratch(vocab), decay.dtype)
        kernels.switched_forward(indices, *tables, out, scratch, start, stop)

    run_ranges(work, units, tokens.numel() * states / LANES * _NANOSECONDS_FORWARD / 1e3)
    return last


def _backward(dlast: Tensor, tokens: Tensor, decay: Tensor, drive: Tensor) -> tuple[Tensor, Tensor]:
    from keelback.scan.cpu import switched as kernels

    replicas, rows, length = tokens.shape
    vocab, states = decay.shape[1:]
    pieces, units = _units(rows, replicas, states)
    partial = decay.new_empty(2, replicas, pieces, vocab, states)
    dout, indices, *tables = _arrays(dlast, _as_index(tokens), decay, drive)
    ddecay, ddrive = partial.numpy()

    def work(start: int, stop: int) -> None:
        scratch = aligned_scratch(kernels.backward_scratch(vocab, length), decay.dtype)
        kernels.switched_backward(dout, indices, *tables, ddecay, ddrive, scratch, start, stop)

    run_ranges(work, units, tokens.numel() * states / LANES * _NANOSECONDS_BACKWARD / 1e3)
    return tuple(partial.sum(2).unbind(0))  # type: ignore[return-value]
