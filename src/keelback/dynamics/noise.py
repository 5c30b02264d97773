"""Noise families that are added to the clean tokens of pattern sequences."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.errors import InputError


@runtime_checkable
class Noise(Protocol):
    """What a noise family offers: its standard deviation per coordinate and a way to draw it.

    Examples:
        >>> isinstance(GaussianNoise(scale=0.1), Noise)
        True
    """

    @property
    def scale(self) -> float:
        """Standard deviation of one coordinate of one token (tau in the paper)."""
        ...

    def draw(
        self, shape: tuple[int, int, int], generator: torch.Generator
    ) -> Float[Tensor, "samples length dim"]:
        """Draw the noise of `samples` sequences, on the generator's device, in float32."""
        ...


def _check_scale(scale: float) -> None:
    if not 0 <= scale < float("inf"):
        raise InputError(f"noise: the scale is a finite number >= 0, not {scale}")


@dataclass(frozen=True)
class GaussianNoise:
    """Independent N(0, scale^2) on every coordinate: the paper's noise.

    Examples:
        >>> GaussianNoise(0.02).draw((2, 5, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5, 4])
    """

    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def draw(
        self, shape: tuple[int, int, int], generator: torch.Generator
    ) -> Float[Tensor, "samples length dim"]:
        """Draw independent normal noise."""
        return self.scale * torch.randn(shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class StudentNoise:
    """Independent Student-t coordinates with `degrees` of freedom, scaled to deviation `scale`.

    Examples:
        >>> StudentNoise(0.02, degrees=3).draw((2, 5, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5, 4])
    """

    scale: float
    degrees: float = 3.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if not self.degrees > 2:
            raise InputError(
                f"noise: Student noise needs more than 2 degrees of freedom to have a standard "
                f"deviation, not {self.degrees}"
            )

    def draw(
        self, shape: tuple[int, int, int], generator: torch.Generator
    ) -> Float[Tensor, "samples length dim"]:
        """Draw t variates from pairs of uniforms (Bailey 1994, the polar method's direct form)."""
        device = generator.device
        radius = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        angle = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        smallest = torch.finfo(torch.float64).tiny
        power = torch.log(radius.clamp_min(smallest)) * (-2 / self.degrees)
        variate = torch.sqrt(self.degrees * torch.expm1(power)) * torch.cos(2 * torch.pi * angle)
        unit = ((self.degrees - 2) / self.degrees) ** 0.5
        return (self.scale * unit * variate).to(torch.float32)


@dataclass(frozen=True)
class CorrelatedNoise:
    """Gaussian noise of deviation `scale`, correlated over coordinates, positions, or both.

    Two coordinates of a token have correlation `across_features`; one coordinate at two positions
    k apart has correlation `along_sequence ** k`.

    Examples:
        >>> noise = CorrelatedNoise(0.02, across_features=0.5)
        >>> noise.draw((2, 5, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5, 4])
    """

    scale: float
    across_features: float = 0.5
    along_sequence: float = 0.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if not 0 <= self.across_features <= 1:
            raise InputError(
                f"noise: the correlation across features lies in [0, 1], not {self.across_features}"
            )
        if not -1 < self.along_sequence < 1:
            raise InputError(
                f"noise: the correlation along the sequence lies strictly between -1 and 1, "
                f"not {self.along_sequence}"
            )

    def draw(
        self, shape: tuple[int, int, int], generator: torch.Generator
    ) -> Float[Tensor, "samples length dim"]:
        """Draw a shared and an own part for every token, then couple the positions."""
        samples, length, _ = shape
        device = generator.device
        own = torch.randn(shape, generator=generator, device=device)
        shared = torch.randn((samples, length, 1), generator=generator, device=device)
        white = (1 - self.across_features) ** 0.5 * own + self.across_features**0.5 * shared
        if self.along_sequence == 0:
            return self.scale * white
        lag = torch.arange(length, device=device, dtype=torch.float64)
        covariance = self.along_sequence ** (lag[:, None] - lag[None, :]).abs()
        coupling = torch.linalg.cholesky(covariance).to(white.dtype)
        return self.scale * torch.einsum("ls,nsd->nld", coupling, white)
