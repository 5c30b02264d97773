"""What an adapter is: the one thing to write for a new kind of layer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from keelback.audit._recurrence import Recurrence


class Seen(NamedTuple):
    """What one watched submodule was given, and what it gave."""

    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class LayerCall:
    """One forward pass of one layer.

    `hidden_states` is the layer's own input, `(batch, length, d_model)` or, in a layer for images,
    `(batch, height, width, d_model)`; `mask`, where the model passed one, is `(batch, length)` and
    zero at padding; `seen` has the watched submodules by name; `output` is what the layer gave;
    `arguments` has all that it was called with, by name.
    """

    hidden_states: Float[Tensor, "batch *positions d_model"]
    mask: Tensor | None
    seen: Mapping[str, Seen]
    output: Tensor | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def masked(self, x: Tensor) -> Tensor:
        """`x`, `(batch, length, ...)`, with padding positions set to zero."""
        if self.mask is None:
            return x
        return x * self.mask.to(x.dtype).reshape(*self.mask.shape, *([1] * (x.ndim - 2)))


class Adapter(ABC):
    """Knows one kind of state-space layer: how to tell it, and how to read its recurrence.

    An adapter asks for the submodules whose inputs and outputs it needs (`watched`) and makes a
    `Recurrence` of what they were given. It never changes what the layer computes.

    An audit does not take the reading on trust: it runs the recurrence and compares what `hand_on`
    makes of it with what the layer really handed on. Without `hand_on` there is no such proof,
    and the audit says so.

    Layers come as `Any`: an adapter serves every class that has the right parts.
    """

    kind: str
    """Name of the kind in results, such as "mamba"."""

    watched: tuple[str, ...] = ()
    """Attribute names of the submodules whose calls `read` and `hand_on` need."""

    projection: str | None = "out_proj"
    """The submodule that is given what `hand_on` gives; `None` where that is the layer's output."""

    entry: str | None = None
    """The watched submodule that is given the layer's input, changed at each position by itself.

    Then nothing may mix positions before it, or the layer is not read. `None` where that is not so.
    """

    parts: tuple[str, ...] | None = None
    """All parameters and submodules that a layer of this kind has, by their first names.

    A layer with others besides is not read: they may be a second direction or another scan. `None`
    where that is not known.
    """

    decays_because: str = "A is minus an exponential"
    """Why `always_decays` is true of a layer, in words for a verdict."""

    enlarges_because: str | None = None
    """Why a state may grow for some steps although every rate decays, in words for a verdict.

    `None` where nothing but the decay, a rotation or an erasure along one key moves the state.
    """

    @abstractmethod
    def matches(self, module: Any) -> bool:
        """Whether `module` is a layer of this kind, told by its parts rather than its class."""

    @abstractmethod
    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """A, in continuous time and float32; the state axis is 1 where a rate's states share it."""

    @abstractmethod
    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """The recurrence of one forward pass."""

    def directions(self, module: Any) -> Mapping[str, "Adapter"]:
        """An adapter for each direction in which the layer scans, by name; by default one, ""."""
        del module
        return {"": self}

    def hand_on(
        self, module: Any, call: LayerCall, outputs: Sequence[Float[Tensor, "batch length ..."]]
    ) -> Tensor | None:
        """What the layer hands to its output projection if its recurrences give `outputs`.

        Gate and norm included. One output per direction, each in its own order of positions.
        `None` where this is not known; then nothing proves what `read` says.
        """
        del module, call, outputs
        return None

    def replay(self, module: Any, call: LayerCall) -> None:
        """Call the watched submodules again, for layers whose fused kernel goes round them."""
        for name in self.watched:
            getattr(module, name)(call.masked(call.hidden_states))

    def edit_rates(
        self, module: Any, A: Float[Tensor, "rates state"]
    ) -> Mapping[str, Tensor] | None:
        """New values of the parameters, by name, that make `A` the state matrix.

        `None` where the layer cannot have another; the nearest that forgets no more slowly where it
        cannot have this one. Differentiable in `A`.
        """
        del module, A
        return None

    def edit_steps(self, module: Any, factor: Tensor) -> Mapping[str, Tensor] | None:
        """New values of the parameters, by name, with which step sizes are `factor` times larger.

        Step sizes multiply both A and what is written, so no parameter of them alone need exist.
        `None` where no parameters have this effect. Differentiable in `factor`.
        """
        del module, factor
        return None

    def goes_on(self, module: Any, given: Mapping[str, Any]) -> bool | None:
        """Whether a call goes on from an earlier state; `None` to tell it by what is `given`.

        Such calls are not read. `given` is what the layer was called with, by name, its input
        first. By default a state is looked for in every argument that may hold one.
        """
        del module, given
        return None

    def always_decays(self, module: Any) -> bool:
        """Whether A is below 0 whatever the weights, because of how it is made of them."""
        del module
        return False


def negative_exp(A_log: Tensor) -> Tensor:
    """`-exp(A_log)` in at least float32, Mamba's parametrisation of A."""
    return -torch.exp(wide(A_log.detach()))


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """`x` divided by its norm along the last axis, the square of which is at least `epsilon`."""
    x = wide(x)
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + epsilon)


def has_parts(module: Any, *names: str) -> bool:
    """Whether `module` has submodules or parameters of these names."""
    return all(getattr(module, name, None) is not None for name in names)


def first_of(module: Any, *names: str, default: Any = None) -> Any:
    """The first of these attributes that `module` has."""
    for name in names:
        if getattr(module, name, None) is not None:
            return getattr(module, name)
    return default


def convolved(
    module: Any, x: Float[Tensor, "batch length channels"], conv1d: nn.Conv1d | None = None
) -> Float[Tensor, "batch length channels"]:
    """The layer's causal depthwise `conv1d` and its activation (SiLU where it names none)."""
    conv: nn.Conv1d = module.conv1d if conv1d is None else conv1d
    mixed = F.conv1d(
        x.transpose(1, 2).to(conv.weight.dtype),
        conv.weight,
        conv.bias,
        padding=conv.weight.shape[-1] - 1,
        groups=conv.weight.shape[0],
    )
    own = getattr(module, "act", None) or getattr(module, "activation", "silu")
    activation: Any = getattr(F, own) if isinstance(own, str) else own
    return activation(mixed[..., : x.shape[1]].transpose(1, 2))
