"""The shapes on which scans are compared, and their inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from keelback.errors import InputError

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class ScanSize:
    """Sizes of a scan with one group."""

    batch: int
    length: int
    channels: int
    state: int

    def __str__(self) -> str:
        return f"{self.batch},{self.length},{self.channels},{self.state}"

    @property
    def numbers(self) -> int:
        """How many numbers u, delta, B, C and the output have."""
        a_step = 3 * self.channels + 2 * self.state
        return self.batch * self.length * a_step + self.channels * self.state

    @classmethod
    def parse(cls, text: str) -> "ScanSize":
        """Read "batch,length,channels,state".

        Raises:
            InputError: The text is not four positive integers.
        """
        parts = text.split(",")
        if len(parts) != 4 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise InputError(
                f"shape is {text!r}; it should be four positive integers, "
                "batch,length,channels,state (as in 256,500,16,4)"
            )
        return cls(*(int(part) for part in parts))


def default_shapes(device: str) -> list[ScanSize]:
    """The shapes compared where none is asked for: small models, one Mamba layer, the smallest."""
    if device == "cpu":
        return [ScanSize(256, 500, 16, 4), ScanSize(1, 1024, 1536, 16), ScanSize(64, 250, 4, 4)]
    return [
        ScanSize(8, 2048, 1536, 16),
        ScanSize(1, 32768, 1536, 16),
        ScanSize(256, 500, 16, 4),
        ScanSize(256, 2000, 16, 4),
        ScanSize(4096, 1024, 16, 16),
    ]


def dtype_named(name: str) -> torch.dtype:
    """The floating dtype of that name.

    Raises:
        InputError: There is none.
    """
    if name not in _DTYPES:
        raise InputError(f"dtype is {name!r}; it should be one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


@dataclass(frozen=True)
class Inputs:
    """Operands of a scan: u and delta (batch, length, channels), A (channels, state), B and C
    (batch, length, 1, state), and the gradient of the output, dy.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    dy: Tensor

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `selective_scan` takes."""
        return self.u, self.delta, self.A, self.B, self.C


def make_inputs(shape: ScanSize, device: str, dtype: torch.dtype) -> Inputs:
    """Random operands with the scales of Mamba: decays of a few hundredths to about one a step."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device, dtype)

    rows = (shape.batch, shape.length)
    delta = torch.rand(*rows, shape.channels, generator=generator).mul(0.1).to(device, dtype)
    rates = -torch.arange(1.0, shape.state + 1).repeat(shape.channels, 1)
    return Inputs(
        u=normal(*rows, shape.channels),
        delta=delta,
        A=rates.to(device, torch.promote_types(dtype, torch.float32)),
        B=normal(*rows, 1, shape.state),
        C=normal(*rows, 1, shape.state),
        dy=normal(*rows, shape.channels),
    )
