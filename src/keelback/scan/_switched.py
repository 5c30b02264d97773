"""The scan of token sequences over a small vocabulary, as a linear system that the tokens switch.

Where everything that enters the selective scan is a function of the token, its step has as many
values as there are tokens: they are tabulated once, and the scan looks them up.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.errors import InputError
from keelback.scan._checks import require_shape
from keelback.scan._cpu import aligned_scratch
from keelback.scan._layout import LANES
from keelback.scan._op import _fold, _inside_transform, _unfold
from keelback.scan._threads import run_ranges

_DTYPES = (torch.float32, torch.float64)
_NANOSECONDS_FORWARD, _NANOSECONDS_BACKWARD = 1.5, 6.0


def switched_scan(
    tokens: Int[Tensor, "batch length"],
    decay: Float[Tensor, "vocab states"],
    drive: Float[Tensor, "vocab states"],
) -> Float[Tensor, "batch states"]:
    """The state after the last token of `h_t = decay[v_t] h_{t-1} + drive[v_t]`, from zero.

    Differentiable once, in both tables. `vmap` runs many systems as one scan. On the CPU, in
    float32 or float64; the time does not depend on the size of the vocabulary as long as the tables
    fit into the cache.

    Raises:
        InputError: a table has the wrong shape, dtype or device, or a token is not in 0, ...,
            vocab - 1.
    """
    require_shape("tokens", tokens, ("batch", "length"))
    require_shape("decay", decay, ("vocab", "states"))
    require_shape("drive", drive, tuple(decay.shape))
    for name, table in (("decay", decay), ("drive", drive)):
        if table.dtype not in _DTYPES or table.dtype != decay.dtype:
            raise InputError(
                f"{name} has dtype {table.dtype}; both tables should be float32 or float64"
            )
        if table.device.type != "cpu":
            raise InputError(f"{name} is on {table.device}; the switched scan runs on the CPU")
    one_replica = (tokens.unsqueeze(0), decay.unsqueeze(0), drive.unsqueeze(0))
    return _SwitchedScan.apply(*one_replica).squeeze(0)  # type: ignore[no-untyped-call]


class _SwitchedScan(torch.autograd.Function):
    """The scan with a leading axis of replicas on every operand."""

    @staticmethod
    def forward(tokens: Tensor, decay: Tensor, drive: Tensor) -> Tensor:
        return _forward(tokens, decay, drive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dlast: Tensor) -> tuple[None, Tensor, Tensor]:
        run: Any = _SwitchedScanBackward.apply if _inside_transform() else _backward
        return (None, *run(dlast, *ctx.saved_tensors))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *operands: Tensor) -> Any:
        size = info.batch_size
        folded = [_fold(x, dim, size) for x, dim in zip(operands, in_dims, strict=True)]
        return _unfold(_SwitchedScan.apply(*folded), size), 0  # type: ignore[no-untyped-call]


class _SwitchedScanBackward(torch.autograd.Function):
    """The gradients of both tables, which have no derivative of their own."""

    @staticmethod
    def forward(*operands: Tensor) -> tuple[Tensor, Tensor]:
        return _backward(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("the switched scan has first derivatives only")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *operands: Tensor) -> Any:
        size = info.batch_size
        folded = [_fold(x, dim, size) for x, dim in zip(operands, in_dims, strict=True)]
        gradients = _SwitchedScanBackward.apply(*folded)  # type: ignore[no-untyped-call]
        return tuple(_unfold(x, size) for x in gradients), (0, 0)


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _units(rows: int, replicas: int, states: int) -> tuple[int, int]:
    """Into how many pieces the rows of a replica are cut, and how many units there are in all."""
    from keelback.scan._switched_kernels import ROWS

    pieces = -(-rows // ROWS)
    return pieces, replicas * pieces * -(-states // LANES)


def _as_index(tokens: Tensor) -> Tensor:
    return tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.int()


def _forward(tokens: Tensor, decay: Tensor, drive: Tensor) -> Tensor:
    from keelback.scan import _switched_kernels as kernels

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
    from keelback.scan import _switched_kernels as kernels

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
