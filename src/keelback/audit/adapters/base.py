"""What an adapter is: the one thing to write for a new kind of layer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
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

    `hidden_states` is the layer's own input, `(batch, length, d_model)`; `mask`, where the model
    passed one, is `(batch, length)` and zero at padding; `seen` has the watched submodules by name.
    """

    hidden_states: Float[Tensor, "batch length d_model"]
    mask: Tensor | None
    seen: Mapping[str, Seen]

    def masked(self, x: Tensor) -> Tensor:
        """`x`, `(batch, length, ...)`, with padding positions set to zero."""
        if self.mask is None:
            return x
        return x * self.mask.to(x.dtype).reshape(*self.mask.shape, *([1] * (x.ndim - 2)))


class Adapter(ABC):
    """Knows one kind of state-space layer: how to tell it, and how to read its recurrence.

    An adapter asks for the submodules whose inputs and outputs it needs (`watched`) and makes a
    `Recurrence` of what they were given. It never changes what the layer computes.

    Layers come as `Any`: an adapter serves every class that has the right parts.
    """

    kind: str
    """Name of the kind in results, such as "mamba"."""

    watched: tuple[str, ...] = ()
    """Attribute names of the submodules whose calls `read` needs."""

    @abstractmethod
    def matches(self, module: Any) -> bool:
        """Whether `module` is a layer of this kind, told by its parts rather than its class."""

    @abstractmethod
    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """A, in continuous time and float32; the state axis is 1 where a rate's states share it."""

    @abstractmethod
    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """The recurrence of one forward pass."""

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


def negative_exp(A_log: Tensor) -> Tensor:
    """`-exp(A_log)` in at least float32, Mamba's parametrisation of A."""
    return -torch.exp(A_log.detach().to(torch.promote_types(A_log.dtype, torch.float32)))


def has_parts(module: Any, *names: str) -> bool:
    """Whether `module` has submodules or parameters of these names."""
    return all(getattr(module, name, None) is not None for name in names)


def convolved(
    module: Any, x: Float[Tensor, "batch length channels"]
) -> Float[Tensor, "batch length channels"]:
    """The layer's causal depthwise `conv1d` and its activation (SiLU where it names none)."""
    conv1d: nn.Conv1d = module.conv1d
    mixed = F.conv1d(
        x.transpose(1, 2).to(conv1d.weight.dtype),
        conv1d.weight,
        conv1d.bias,
        padding=conv1d.weight.shape[-1] - 1,
        groups=conv1d.weight.shape[0],
    )
    own = getattr(module, "act", None) or getattr(module, "activation", "silu")
    activation: Any = getattr(F, own) if isinstance(own, str) else own
    return activation(mixed[..., : x.shape[1]].transpose(1, 2))
