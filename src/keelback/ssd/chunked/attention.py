"""Gated linear attention in chunks, as a backend runs it: on any device.

With a decay per head it is a scan by heads with x = v, B = k and C = q, whose weights and log
decays are given apart. In float32 on a CPU it is computed by compiled kernels instead.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.by_rows import ByRows
from keelback.compiled.layouts import Signature, layouts_of
from keelback.ssd._attention_operands import Operands
from keelback.ssd.chunked import by_channel
from keelback.ssd.chunked.backward import gradients_of
from keelback.ssd.chunked.blocks import Block, by_matrix, grouped
from keelback.ssd.chunked.forward import all_outputs, states_between
from keelback.ssd.cpu import attention as on_cpu

#: Half precision is widened before.
WIDENS = False


def _start(given: Operands[Tensor]) -> Tensor:
    """The states before the first step."""
    if given.initial_states is not None:
        return given.initial_states
    batch, _, heads, value = given.v.shape
    return given.v.new_zeros(batch, heads, value, given.k.shape[-1])


def _whole(given: Operands[Tensor], inputs: Tensor) -> Block:
    """All chunks; `inputs` are the values, or what lies as they do."""
    weights = torch.ones_like(given.g) if given.weights is None else given.weights
    return Block.whole(inputs, given.k, given.q, weights, given.g.double(), given.reset)


def _chunks(given: Operands[Tensor]) -> tuple[Block, Tensor, Tensor]:
    """All chunks, the states before each, and those after the last."""
    whole = _whole(given, given.v)
    before, last = states_between(whole, grouped(given.initial_states, given.k.shape[2]))
    return whole, before, last


def run_forward(given: Operands[Tensor]) -> tuple[Tensor, Tensor]:
    """Output and last states of an attention that is not empty."""
    whole, before, last = _chunks(given)
    y = all_outputs(whole, before, given.v.shape[1])
    return y.contiguous(), by_matrix(last, given.v.shape[-1])


def run_backward(
    given: Operands[Tensor], dy: Tensor | None, dlast: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v, g, the weights and the initial states."""
    whole, before, _ = _chunks(given)
    dy = torch.zeros_like(given.v) if dy is None else dy
    of_outputs = _whole(given, dy).x
    chunked, start = gradients_of(whole, before, of_outputs, grouped(dlast, given.k.shape[2]))
    found = chunked.by_step(given.v.shape[1])
    return found.C, found.B, found.x, found.logs, found.sizes, by_matrix(start, given.v.shape[-1])


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> ByRows:
    """The attention of operands with this signature; there are no options."""
    given: Any = Operands(*layouts_of(signature))
    passes: tuple[Any, Any] = (run_forward, run_backward)
    if given.v.device.type == "cpu" and given.v.dtype == torch.float32:
        passes = (on_cpu.run_forward, on_cpu.run_backward)
    elif given.by_channel:
        passes = (by_channel.run_forward, by_channel.run_backward)
    return ByRows(Operands, given.v, _start, *passes)
