"""Repairs as edits of parameters: what each kind changes, and how to try one without keeping it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.audit._layers import Layer

Edits = dict[str, Tensor]
"""New values of a model's parameters, by full name."""


@dataclass(frozen=True)
class EditableLayer:
    """A layer, its state matrix as it was, and the mean step size of each of its rates."""

    layer: Layer
    A: Float[Tensor, "rates state"]
    step_mean: Float[Tensor, " rates"]

    def named(self, edits: Mapping[str, Tensor] | None) -> Edits:
        """The edits of this layer under the model's names; none if there is nothing to edit."""
        prefix = f"{self.layer.name}." if self.layer.name else ""
        return {prefix + name: value for name, value in (edits or {}).items()}


class EditKind(ABC):
    """One way to change how layers forget, with one number a layer to be found.

    The number is a binary logarithm, so that a step of a search means the same everywhere.
    """

    name: str

    @abstractmethod
    def edit(self, layer: EditableLayer, value: Tensor) -> Edits:
        """The edits of one layer; differentiable in `value`."""

    @abstractmethod
    def shared_values(self, train_length: int, target_length: int) -> list[list[float]]:
        """Values to try for all layers at once: rows to follow while the loss comes down."""

    def edits(self, layers: Sequence[EditableLayer], values: Tensor) -> Edits:
        """The edits of all layers, one value for each."""
        return {
            name: edited
            for layer, value in zip(layers, values, strict=True)
            for name, edited in self.edit(layer, value).items()
        }


class DecayFloor(EditKind):
    """No state remembers more than `2^value` tokens, at its mean step size; the others stay.

    States that forget too slowly, or grow, are made to forget: an abscissa that is not negative is
    clipped on the way.
    """

    name = "decay-floor"

    def edit(self, layer: EditableLayer, value: Tensor) -> Edits:
        """A is at most `-1 / (2^value mean delta)`."""
        floor = torch.exp2(-value) / layer.step_mean.unsqueeze(-1)
        A = torch.minimum(layer.A, -floor)
        return layer.named(layer.layer.adapter.edit_rates(layer.layer.module, A))

    def shared_values(self, train_length: int, target_length: int) -> list[list[float]]:
        """Horizons from the target length down to an eighth of the training length, in octaves."""
        longest, octaves = math.log2(target_length), math.log2(8 * target_length / train_length)
        return [[longest - i for i in range(math.ceil(octaves) + 1)]]


class RateScale(EditKind):
    """A of a layer times `2^value` (as in Mamba Modulation, NeurIPS 2025)."""

    name = "rate-scale"

    def edit(self, layer: EditableLayer, value: Tensor) -> Edits:
        """A times the factor."""
        A = layer.A * torch.exp2(value)
        return layer.named(layer.layer.adapter.edit_rates(layer.layer.module, A))

    def shared_values(self, train_length: int, target_length: int) -> list[list[float]]:
        """Both ways, as far as the ratio of the lengths."""
        return _both_ways(train_length, target_length)


class StepScale(EditKind):
    """Step sizes of a layer times `2^value` (as in MambaExtend, ICLR 2025)."""

    name = "step-scale"

    def edit(self, layer: EditableLayer, value: Tensor) -> Edits:
        """A and what is written times the factor."""
        factor = torch.exp2(value).to(layer.A.device)
        return layer.named(layer.layer.adapter.edit_steps(layer.layer.module, factor))

    def shared_values(self, train_length: int, target_length: int) -> list[list[float]]:
        """Both ways, as far as the ratio of the lengths."""
        return _both_ways(train_length, target_length)


def _both_ways(train_length: int, target_length: int) -> list[list[float]]:
    octaves = max(1, math.ceil(math.log2(target_length / train_length)))
    return [[sign * float(i) for i in range(1, octaves + 1)] for sign in (1, -1)]


EDIT_KINDS: dict[str, EditKind] = {
    kind.name: kind for kind in (DecayFloor(), RateScale(), StepScale())
}
"""By the name that `--method` takes."""


def clipped(layers: Sequence[EditableLayer], horizon: float) -> Edits:
    """States that do not decay are made to, with a horizon of `horizon` tokens; others stay."""
    edits: Edits = {}
    for layer in layers:
        ceiling = -1 / (horizon * layer.step_mean.unsqueeze(-1))
        A = torch.where(layer.A >= 0, ceiling.expand_as(layer.A), layer.A)
        if not torch.equal(A, layer.A):
            edits |= layer.named(layer.layer.adapter.edit_rates(layer.layer.module, A))
    return edits


@contextmanager
def substituted(model: nn.Module, edits: Edits) -> Iterator[None]:
    """Within the block the model has other values of some parameters, gradients included."""
    own: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for path, value in edits.items():
            prefix, _, name = path.rpartition(".")
            module, parameter = model.get_submodule(prefix), model.get_parameter(path)
            own.append((module, name, parameter))
            module._parameters[name] = value.to(parameter.dtype)  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in own:
            module._parameters[name] = parameter


@torch.no_grad()
def keep(model: nn.Module, edits: Edits, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Write edits into the model for good; gives the values that they replace.

    `dtype` is the type in which the checkpoint will be stored: values are rounded to it.
    """
    replaced = {}
    for path, value in edits.items():
        parameter = model.get_parameter(path)
        replaced[path] = parameter.detach().clone()
        parameter.copy_(value if dtype is None else value.to(dtype))
    return replaced
