"""Finding the state-space layers of a model, and watching them while it runs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters import Adapter, LayerCall, Seen, known_adapters
from keelback.errors import InputError


@dataclass(frozen=True)
class Layer:
    """A state-space layer of a model: where it stands and which adapter reads it."""

    index: int
    name: str
    module: nn.Module
    adapter: Adapter

    @property
    def kind(self) -> str:
        """The adapter's name for this kind of layer."""
        return self.adapter.kind

    def state_matrix(self) -> Float[Tensor, "rates state"]:
        """A in continuous time."""
        return self.adapter.state_matrix(self.module)


def find_layers(model: nn.Module, adapters: Sequence[Adapter] | None = None) -> list[Layer]:
    """The state-space layers of any module, in the order in which the model holds them.

    Raises:
        InputError: there is none; the message names what there is instead.
    """
    layers: list[Layer] = []
    inside: set[int] = set()
    tried = list(adapters or known_adapters())
    for name, module in model.named_modules():
        adapter = next((a for a in tried if a.matches(module)), None)
        if id(module) not in inside and adapter is not None:
            layers.append(Layer(len(layers), name, module, adapter))
            inside.update(id(part) for part in module.modules())
    if not layers:
        raise InputError(
            f"no state-space layer in {type(model).__name__}: it is made of "
            f"{_enumerated(_mixers(model)) or 'no parameters at all'}"
        )
    return layers


def not_audited(model: nn.Module, layers: Sequence[Layer]) -> dict[str, int]:
    """Classes, and how many of each, that mix tokens or decay but that no adapter reads."""
    audited = {id(part) for layer in layers for part in layer.module.modules()}
    mixing = {id(m): m for m in model.modules() if id(m) not in audited and _mixes(m)}
    innermost = (
        module
        for module in mixing.values()
        if not any(id(part) in audited or id(part) in mixing for part in _inside(module))
    )
    return dict(Counter(type(module).__name__ for module in innermost))


def _mixes(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    known = any(word in name for word in ("attention", "lstm", "gru", "rnn", "rwkv"))
    return (known or hasattr(module, "A_log")) and any(True for _ in module.parameters())


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if part is not module)


def _mixers(model: nn.Module) -> dict[str, int]:
    """What to name in a model that has no state-space layer: its mixers, else its leaves."""
    mixers = not_audited(model, [])
    if mixers:
        return mixers
    leaves = (m for m in model.modules() if any(True for _ in m.parameters(recurse=False)))
    return dict(Counter(type(leaf).__name__ for leaf in leaves))


def _enumerated(counts: dict[str, int], most: int = 5) -> str:
    largest = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{count} {name}" for name, count in largest)


Receive = Callable[[Layer, Tensor, Recurrence], None]
"""Called with a layer, its input `(batch, length, d_model)`, and its recurrence."""


@contextmanager
def watching(layers: Sequence[Layer], receive: Receive) -> Iterator[None]:
    """Within the block, every forward pass of a layer is also given to `receive`.

    The layers' outputs are what they were, to the bit. Nothing is kept from one layer to the
    next. Passes of a single token through a cache are skipped.
    """
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_watching_one(layer, receive))
        yield


@contextmanager
def _watching_one(layer: Layer, receive: Receive) -> Iterator[None]:
    seen: dict[str, Seen] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen[name] = Seen(args[0], output)

        return hook

    def finish(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        hidden_states = args[0] if args else kwargs["hidden_states"]
        if kwargs.get("cache_params") is not None and hidden_states.shape[1] == 1:
            return
        mask = kwargs.get("attention_mask")
        call = LayerCall(hidden_states, mask if mask is None or mask.ndim == 2 else None, seen)
        with torch.no_grad():
            if len(seen) < len(layer.adapter.watched):
                layer.adapter.replay(module, call)
            receive(layer, hidden_states, layer.adapter.read(module, call))
        seen.clear()

    handles = [
        getattr(layer.module, name).register_forward_hook(remember(name))
        for name in layer.adapter.watched
    ]
    handles.append(layer.module.register_forward_hook(finish, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
