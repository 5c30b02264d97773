"""Other ways to run Mamba-2's scan by heads from PyTorch, each in the layout that it likes best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.benchmarks.scan_peers import Call, head_sizes, load_peers
from keelback.errors import InputError
from keelback.ssd import ssd

#: Steps of a chunk in mamba-ssm's layers and transformers' configurations.
CHUNK = 256
#: Smallest and largest step size at the start of a Mamba-2.
STEP_RANGE = (1e-3, 0.1)


@dataclass(frozen=True)
class SsdShape:
    """The sizes of a scan by heads."""

    batch: int
    length: int
    heads: int
    head_dim: int
    state: int
    groups: int

    def __str__(self) -> str:
        return ",".join(map(str, astuple(self)))

    @property
    def numbers(self) -> int:
        """How many numbers the operands, the output and the last state have."""
        a_step = self.heads * (2 * self.head_dim + 1) + 2 * self.groups * self.state
        return self.batch * (self.length * a_step + self.heads * self.head_dim * self.state)

    @classmethod
    def parse(cls, text: str) -> "SsdShape":
        """From "batch,length,heads,head_dim,state,groups"."""
        return cls(*head_sizes(text, "batch,length,heads,head_dim,state,groups"))


@dataclass(frozen=True)
class SsdInputs:
    """Operands of `ssd` with softplus, and the gradient of the output, dy."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt_bias: Tensor
    dy: Tensor

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """What is differentiated."""
        return self.x, self.dt, self.A, self.B, self.C, self.D, self.dt_bias


def make_inputs(shape: SsdShape, device: str, dtype: torch.dtype) -> SsdInputs:
    """Random operands with the step sizes and rates that a Mamba-2 begins with."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    def uniform(low: float, high: float) -> Tensor:
        size = (shape.heads,)
        return torch.empty(size, device=device).uniform_(low, high, generator=generator)

    rows = (shape.batch, shape.length)
    steps = uniform(*map(math.log, STEP_RANGE)).exp()
    return SsdInputs(
        x=normal(*rows, shape.heads, shape.head_dim),
        dt=normal(*rows, shape.heads) / 2,
        A=-uniform(1.0, 16.0),
        B=normal(*rows, shape.groups, shape.state),
        C=normal(*rows, shape.groups, shape.state),
        D=torch.ones(shape.heads, device=device),
        dt_bias=steps.expm1().log(),
        dy=normal(*rows, shape.heads, shape.head_dim),
    )


@dataclass(frozen=True)
class SsdCall(Call):
    """A call whose output lacks the skip connection if `skips` is false."""

    skips: bool = True


SsdPeer = Callable[[SsdInputs], SsdCall]


def scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """`ssd` as the benchmark calls it."""
    y = ssd(x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=True)
    assert isinstance(y, Tensor)
    return y


def keelback(inputs: SsdInputs) -> SsdCall:
    """This package."""
    return SsdCall(inputs.operands, inputs.dy, scan)


def _mamba_ssm() -> SsdPeer:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Any:
        return mamba_chunk_scan_combined(x, dt, A, B, C, CHUNK, D=D, dt_bias=bias, dt_softplus=True)

    return lambda inputs: SsdCall(inputs.operands, inputs.dy, run)


def _fla() -> SsdPeer:
    """The product of x with the step sizes, the log decays and the heads of B and C are given."""
    from fla.ops.simple_gla import chunk_simple_gla

    def prepare(inputs: SsdInputs) -> SsdCall:
        steps = F.softplus(inputs.dt.float() + inputs.dt_bias)
        repeats = inputs.x.shape[2] // inputs.B.shape[2]
        q, k = (one.repeat_interleave(repeats, dim=2) for one in (inputs.C, inputs.B))
        v = (inputs.x * steps.unsqueeze(-1)).to(inputs.x.dtype)

        def run(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            return chunk_simple_gla(q, k, v, g, scale=1.0)[0]

        return SsdCall((q, k, v, steps * inputs.A), inputs.dy, run, skips=False)

    return prepare


def _transformers() -> SsdPeer:
    """The path of transformers without other packages, in chunks as its configurations have."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Any:
        return mamba2_chunk_scan(x, dt, A, B, C, CHUNK, D=D, dt_bias=bias, dt_softplus=True)

    return lambda inputs: SsdCall(inputs.operands, inputs.dy, run)


LOADERS: dict[str, dict[str, Callable[[], SsdPeer]]] = {
    "cpu": {"transformers": _transformers},
    "cuda": {"mamba_ssm": _mamba_ssm, "fla": _fla},
}


def peers_of(device: str, required: Sequence[str]) -> dict[str, SsdPeer]:
    """The peers that are installed.

    Raises:
        InputError: A required peer is unknown.
        JobError: A required peer is not installed.
    """
    loaders = LOADERS[device]
    for name in required:
        if name not in loaders:
            known = ", ".join(loaders)
            raise InputError(f"peer is {name!r}; on {device} it should be one of {known}")
    return load_peers(loaders, required)
