"""Repairs as edits of parameters: what each kind changes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.audit._layers import Layer

Edits = dict[str, Tensor]
"""New values of a model's parameters, by full name."""


@dataclass(frozen=True)
class EditableLayer:
    """A layer, its state matrix as it was, and the mean step size of each of its rates.

    `locked` names parameters of the model that must stay as they are, and why.
    """

    layer: Layer
    A: Float[Tensor, "rates state"]
    step_mean: Float[Tensor, " rates"]
    locked: Mapping[str, str] = field(default_factory=dict)

    def with_rates(self, A: Float[Tensor, "rates state"]) -> Edits:
        """The edits that make `A` the state matrix; none where the layer cannot have another."""
        with self.layer.present():
            return self._named(self.layer.adapter.edit_rates(self.layer.module, A))

    def with_steps(self, factor: Tensor) -> Edits:
        """The edits that make step sizes `factor` times larger; none where no weights do that."""
        with self.layer.present():
            return self._named(self.layer.adapter.edit_steps(self.layer.module, factor))

    def _named(self, edits: Mapping[str, Tensor] | None) -> Edits:
        """Edits under the model's names, if they are of weights that may be edited."""
        named = {self.layer.full_name(name): value for name, value in (edits or {}).items()}
        return {} if any(self.why_not(name) for name in named) else named

    def why_not(self, name: str) -> str | None:
        """Why the model's parameter `name` must stay as it is; `None` where it may be edited."""
        if name in self.locked:
            return self.locked[name]
        return self.layer.why_not_editable(name)

    def why_not_at_all(self) -> str:
        """Why no edit of this layer's rates is possible."""
        with self.layer.present():
            edits = self.layer.adapter.edit_rates(self.layer.module, self.A)
        reasons = [self.why_not(self.layer.full_name(name)) for name in edits or {}]
        return next((r for r in reasons if r), "no weight holds its rates")


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
        return layer.with_rates(A)

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
        return layer.with_rates(A)

    def shared_values(self, train_length: int, target_length: int) -> list[list[float]]:
        """Both ways, as far as the ratio of the lengths."""
        return _both_ways(train_length, target_length)


class StepScale(EditKind):
    """Step sizes of a layer times `2^value` (as in MambaExtend, ICLR 2025)."""

    name = "step-scale"

    def edit(self, layer: EditableLayer, value: Tensor) -> Edits:
        """A and what is written times the factor."""
        factor = torch.exp2(value).to(layer.A.device)
        return layer.with_steps(factor)

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
            edits |= layer.with_rates(A)
    return edits
