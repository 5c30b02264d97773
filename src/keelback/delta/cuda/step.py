"""A step of the delta rule on an NVIDIA GPU, by one kernel."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelback.compiled.checks import HALF
from keelback.compiled.cuda_card import card_of
from keelback.compiled.cuda_header import header_text
from keelback.compiled.cuda_launch import Launch
from keelback.compiled.cuda_operands import PIECE_BYTES, addresses, at_pieces, bits_of_floats
from keelback.compiled.cuda_tiles import FLOAT, aligned, element_of
from keelback.compiled.layouts import Layout
from keelback.delta._operands import DeltaSizes, Operands

_COLUMNS = 32  # values of a block
_THREADS = 256
_WIDEST_KEY = 256
_PIECE = 4  # states that a thread moves at once


@dataclass(frozen=True)
class StepConfiguration:
    """For `step.cu`."""

    sources: ClassVar[str] = "keelback.delta.cuda"
    kernel: ClassVar[str] = "step"

    dtype: torch.dtype
    decay_dtype: torch.dtype
    beta_dtype: torch.dtype
    key: int
    normalise: bool

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        warps = _THREADS // 32
        bytes_ = FLOAT * (3 * self.key + 3 * warps + 2 * warps * _COLUMNS)
        return aligned(bytes_, PIECE_BYTES)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {
            "Element": element_of(self.dtype),
            "StoredDecay": self.decay_dtype,
            "StoredBeta": self.beta_dtype,
        }
        planes = 1 if self.dtype in HALF else 3
        numbers = {"kKey": self.key, "kPlanes": planes}
        return header_text(self.dtype, types, numbers, {"kNormalise": self.normalise})


class CudaStep:
    """Steps of one signature, which have no gradients."""

    def __init__(self, given: Operands[Layout], normalise: bool, scale: float) -> None:
        q, k, v, g, beta, states, _ = given
        assert states is not None
        rows, heads, value = v.shape
        groups, key = k.shape[1:]
        tiles = -(-value // _COLUMNS)
        by_key = g.stride if len(g.shape) == len(v.shape) else (*g.stride, 0)
        self._states_shape = (rows, heads, key, value)
        self._launch = Launch(
            "step",
            StepConfiguration(v.dtype, g.dtype, beta.dtype, key, normalise),
            v.device.index,
            rows * heads * tiles,
            _THREADS,
            (rows, heads, groups, value, tiles),
            {
                "q": q.stride[:2],
                "k": k.stride[:2],
                "v": v.stride[:2],
                "g": by_key,
                "beta": beta.stride,
                "states": states.stride[:3],
                "options": bits_of_floats(scale),
                "y": (),
                "after": (),
            },
        )

    def forward(self, operands: Any) -> tuple[Tensor, Tensor]:
        """Output and new states."""
        given: Operands[Any] = Operands(*operands)
        v, states = given.v, given.initial_states
        assert states is not None
        y = torch.empty_like(v, memory_format=torch.contiguous_format)
        after = v.new_empty(self._states_shape, dtype=torch.float32)
        used = (given.q, given.k, v, given.g, given.beta, at_pieces(states))
        self._launch(addresses((*used, y, after)))
        return y, after


def prepare_step(given: Operands[Layout], normalise: bool, scale: float) -> CudaStep | None:
    """The step over operands of this signature, if the kernel takes them as they are.

    It takes half precision and float32, states in float32 whose values are adjacent, in pieces of
    four, and keys of up to 256.
    """
    q, k, v, g, beta, states, _ = given
    sizes = DeltaSizes(v.shape[0], 1, *v.shape[1:], *k.shape[1:])
    numbers = {q.dtype, k.dtype, v.dtype}
    others = (*HALF, torch.float32)
    fits = (
        not sizes.empty
        and len(numbers) == 1
        and all(x.dtype in others for x in (v, g, beta))
        and states is not None
        and states.dtype == torch.float32
        and sizes.key <= _WIDEST_KEY
        and sizes.value % _PIECE == 0
        and all(x.adjacent for x in (q, k, v, states))
        and all(stride % _PIECE == 0 for stride in states.stride[:3])
        and card_of(v.device).multiplies
    )
    return CudaStep(given, normalise, scale) if fits else None
