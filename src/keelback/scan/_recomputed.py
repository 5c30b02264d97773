"""The inside of a Mamba block as a step of autograd that computes again what is large."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.conv._op import CONV
from keelback.conv._operands import ConvOperands
from keelback.scan._op import SCAN
from keelback.scan._operands import Operands


class InnerOperands(NamedTuple):
    """What `mamba_inner` is given."""

    x: Tensor
    z: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    W_x: Tensor
    W_delta: Tensor
    A: Tensor
    D: Tensor
    delta_bias: Tensor

    @property
    def convolved(self) -> ConvOperands[Tensor]:
        """The operands of the convolution."""
        return ConvOperands(self.x, self.conv_weight, self.conv_bias)


def split_projection(
    projected: Tensor, W_delta: Tensor, A: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of W_x u: what W_delta makes step sizes of, B and C."""
    rank, state = W_delta.shape[1], A.shape[1]
    low_rank, B, C = torch.split(projected, [rank, state, state], dim=-1)
    return low_rank, B, C


class Recomputed(torch.autograd.Function):
    """Output of `mamba_inner`; the convolution and the step sizes are not kept."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        given = InnerOperands(*tensors)
        u = _convolution(given).forward(given.convolved, False)[0]
        projected = u @ given.W_x.mT
        operands = _scanned(u, projected, given)
        y, _, chunk_states = _scan(operands).forward(operands, True)
        ctx.save_for_backward(projected, chunk_states, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # that is, with create_graph
            raise NotImplementedError(
                "mamba_inner has first derivatives only; for second derivatives call its functions "
                "one by one, with backend='reference'"
            )
        projected, chunk_states, *tensors = ctx.saved_tensors
        given = InnerOperands(*tensors)
        convolution = _convolution(given)
        u = convolution.forward(given.convolved, False)[0]
        operands = _scanned(u, projected, given)
        found: Operands[Any] = Operands(
            *_scan(operands).backward((dy, None), (chunk_states,), operands)
        )
        low_rank, _, _ = split_projection(projected, given.W_delta, given.A)
        ddelta = found.delta
        dprojected = torch.cat(
            [ddelta @ given.W_delta, found.B.squeeze(-2), found.C.squeeze(-2)], dim=-1
        )
        dW_delta = ddelta.flatten(0, 1).mT @ low_rank.flatten(0, 1)
        found, ddelta = found._replace(delta=None), None
        dW_x = dprojected.flatten(0, 1).mT @ u.flatten(0, 1)
        du = found.u
        du.view(-1, du.shape[-1]).addmm_(dprojected.flatten(0, 1), given.W_x)
        dx, dweight, dconv_bias = convolution.backward((du,), (), given.convolved)
        of_scan = (found.A, found.D, found.delta_bias)
        return dx, found.z, dweight, dconv_bias, dW_x, dW_delta, *of_scan


def _convolution(given: InnerOperands) -> Prepared:
    return CONV.prepared(given.convolved, True)


def _scanned(u: Tensor, projected: Tensor, given: InnerOperands) -> Operands[Tensor]:
    low_rank, B, C = split_projection(projected, given.W_delta, given.A)
    delta = low_rank @ given.W_delta.mT
    maps = (B.unsqueeze(-2), C.unsqueeze(-2))
    return Operands(u, delta, given.A, *maps, given.D, given.z, given.delta_bias)


def _scan(operands: Operands[Tensor]) -> Prepared:
    return SCAN.prepared(operands, True)
