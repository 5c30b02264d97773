"""Finding the state-space layers of a model, and watching them while it runs."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.audit._arguments import given
from keelback.audit._continuing import goes_on_from_a_state
from keelback.audit._parameters import Parameters, whole
from keelback.audit._recurrence import Recurrence
from keelback.audit._replay import (
    Replay,
    call_in_float32,
    computes_in_half,
    holds_buffers_in_half,
    in_float32,
    left_over,
    replayed,
    unread,
)
from keelback.audit._surroundings import why_more_than_its_scan
from keelback.audit.adapters import Adapter, LayerCall, Seen, known_adapters
from keelback.errors import InputError
from keelback.registry import is_from_outside


@dataclass(frozen=True)
class Layer:
    """A state-space layer of a model, or one direction of it: where it stands and what reads it.

    Attributes:
        index: counts the directions of all layers.
        name: that of the module, with the direction in brackets where the layer has several.
        module: the layer.
        adapter: reads this direction.
        path: the module's name in the model.
        reader: reads the layer as a whole; the same as `adapter` where there is one direction.
        parameters: those of the model.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16).build()
        >>> layer = find_layers(model)[0]
        >>> layer.index, type(layer.module).__name__
        (0, 'MambaBlock')
    """

    index: int
    name: str
    module: nn.Module
    adapter: Adapter
    path: str
    reader: Adapter
    parameters: Parameters

    @property
    def kind(self) -> str:
        """The adapter's name for this kind of layer."""
        return self.adapter.kind

    def present(self) -> AbstractContextManager[None]:
        """Within the block, the layer's parameters are whole and in memory, wherever they are."""
        return self.parameters.present(self.path)

    def state_matrix(self) -> Float[Tensor, "rates state"]:
        """A in continuous time."""
        with self.present():
            return self.adapter.state_matrix(self.module)

    def full_name(self, parameter: str) -> str:
        """The model's name of one of the layer's parameters."""
        return f"{self.path}.{parameter}" if self.path else parameter

    def why_not_editable(self, name: str) -> str | None:
        """Why the model's parameter `name` cannot be edited; `None` where it can."""
        try:
            own = self.parameters.own(name)
        except AttributeError:
            return f"{name} is not a weight of its own in this model"
        if not own.is_floating_point() or own.element_size() < 2:
            return f"{name} is quantised ({str(own.dtype).removeprefix('torch.')})"
        if self.parameters.is_shared(name):
            return f"{name} is shared by several modules, which an edit would change together"
        return None


def find_layers(model: nn.Module, adapters: Sequence[Adapter] | None = None) -> list[Layer]:
    """The state-space layers of any module, in the order in which the model holds them.

    A layer that scans in several directions comes once for each.

    Raises:
        InputError: there is none; the message names what there is instead.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16, n_layers=2).build()
        >>> [layer.index for layer in find_layers(model)]
        [0, 1]
    """
    layers: list[Layer] = []
    inside: set[int] = set()
    parameters = Parameters(model)
    tried = list(adapters or known_adapters())
    for path, module in model.named_modules():
        if id(module) in inside:
            continue
        reader = next((a for a in tried if a.matches(module)), None)
        if reader is None:
            continue
        for direction, adapter in reader.directions(module).items():
            name = f"{path}[{direction}]" if direction else path
            layers.append(Layer(len(layers), name, module, adapter, path, reader, parameters))
        inside.update(id(part) for part in module.modules())
    if not layers:
        raise InputError(
            f"no state-space layer in {type(model).__name__}: it is made of "
            f"{_enumerated(_mixers(model)) or 'no parameters at all'}"
        )
    return layers


def not_audited(model: nn.Module, layers: Sequence[Layer]) -> dict[str, int]:
    """Classes, and how many of each, that mix tokens or decay but that no adapter reads.

    Examples:
        >>> attention = torch.nn.MultiheadAttention(16, num_heads=2)
        >>> not_audited(attention, layers=[])
        {'MultiheadAttention': 1}
    """
    audited = {id(part) for layer in layers for part in layer.module.modules()}
    mixing = {id(m): m for m in model.modules() if id(m) not in audited and _mixes(m)}
    innermost = (
        module
        for module in mixing.values()
        if not any(id(part) in audited or id(part) in mixing for part in _inside(module))
    )
    return dict(Counter(type(module).__name__ for module in innermost))


_MIXING = (
    "attention",
    "lstm",
    "gru",
    "rnn",
    "rwkv",
    "recurrent",
    "mamba",
    "ssm",
    "lru",
    "retention",
    "deltanet",
    "hgrn",
    "hyena",
    "longconv",
    "shortconv",
    "statespace",
)
_MIXING_SHORT = re.compile(r"^(s4|s5|gla|ttt|dss|liquid)(nd?|d|layer|block|mixer|model)?$")
"""Names too short to be looked for inside of others."""


_POINTWISE = ("norm", "cache", "mlp", "feedforward")
"""Of parts whose class bears the name of a model that mixes."""


_RATES = re.compile(
    r"(?<!lora)(?:^|_)(?:A|A_?logs?|[Ll]ambdas?|nu|decays?|forget|recurrent|log_dt|inv_dt|dt_bias"
    r"|time_step)(?:_|$)"
)
"""Names of parameters by which layers of many kinds forget, whatever their class is called."""


def _mixes(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    known = any(word in name for word in _MIXING) or _MIXING_SHORT.match(name) is not None
    known = known and not any(word in name for word in _POINTWISE)
    known = known and not isinstance(module, nn.Conv1d)  # a part of a layer
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    has_rates = any(_RATES.search(name) for name, _ in own)
    return (known or has_rates) and any(True for _ in module.parameters())


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

Prove = Callable[[Sequence[Layer], Replay], None]
"""Called with the directions of a layer and how its replay compares with what it handed on."""


@contextmanager
def watching(
    layers: Sequence[Layer],
    receive: Receive,
    prove: Prove | None = None,
    failed: Callable[[Exception], None] | None = None,
) -> Iterator[None]:
    """Within the block, every forward pass of a layer is also given to `receive`.

    The layers' outputs are what they were, to the bit. Nothing is kept from one layer to the
    next. Passes that go on from a state in a cache, and passes over several sequences packed into
    one, are skipped.

    With `prove`, each reading is compared with what the layer hands on, and a layer that cannot be
    read is reported there; without, what goes wrong is raised. With `failed`, it is given to that
    instead, and the forward pass goes on: of a model that is split over processes, no process may
    leave a pass that the others are in.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
        >>> steps = []
        >>> with watching(find_layers(model), lambda layer, x, own: steps.append(own.delta)):
        ...     _ = model(torch.randint(40, (1, 20)))
        >>> steps[0].shape  # batch, length, one step size per channel
        torch.Size([1, 20, 32])
    """
    groups: dict[int, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(id(layer.module), []).append(layer)
    with ExitStack() as stack:
        for group in groups.values():
            stack.enter_context(_watching_one(group, receive, prove, failed))
        yield


@contextmanager
def _watching_one(
    directions: Sequence[Layer],
    receive: Receive,
    prove: Prove | None,
    failed: Callable[[Exception], None] | None,
) -> Iterator[None]:
    first = directions[0]
    reader, watched = first.reader, first.module
    seen: dict[str, Seen] = {}
    times: Counter[str] = Counter()
    goes_on: list[bool] = []
    again: list[LayerCall] = []
    is_again = is_tried = False

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.clear()
        times.clear()
        if is_again or is_tried:
            return
        bound = given(module, args, kwargs)
        told = reader.goes_on(module, bound)
        goes_on.append(goes_on_from_a_state(module, bound) if told is None else told)

    def finish(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        nonlocal is_again, is_tried
        if is_tried or (not is_again and goes_on and goes_on.pop()):
            return
        bound = given(module, args, kwargs)
        hidden_states = whole(next(iter(bound.values())))
        mask = bound.get("attention_mask")
        is_mask = isinstance(mask, Tensor) and mask.ndim == 2
        call = LayerCall(
            hidden_states, mask if is_mask else None, dict(seen), _first_tensor(output), bound
        )
        seen.clear()
        if is_again:
            again.append(call)
            return
        with torch.no_grad(), first.present():
            if prove is not None:
                is_tried = True
                try:
                    more = why_more_than_its_scan(reader, module, call, bound, Counter(times))
                finally:
                    is_tried = False
                if more is not None:
                    prove(directions, unread(more))
                    return
            if prove is None or not computes_in_half(call):
                _pass_on(directions, call, receive, prove)
                return
            _pass_on(directions, call, receive, _for_failures(prove))
            rounded = holds_buffers_in_half(module)
            with in_float32(module):
                is_again = True
                try:
                    call_in_float32(module, bound)
                finally:
                    is_again = False
                    seen.clear()
                _prove(directions, again.pop() if again else call, prove, rounded)

    def unless_it_fails(hook: Callable[..., None]) -> Callable[..., None]:
        def tried(*arguments: Any) -> None:
            try:
                hook(*arguments)
            except Exception as error:
                if failed is None:
                    raise
                failed(error)

        return tried

    names = {*reader.watched, *([reader.projection] if reader.projection else [])}
    handles: list[Any] = [
        getattr(watched, name).register_forward_hook(_remembering(name, seen, times))
        for name in names
        if isinstance(getattr(watched, name, None), nn.Module)
    ]
    handles.append(watched.register_forward_pre_hook(unless_it_fails(begin), with_kwargs=True))
    handles.append(watched.register_forward_hook(unless_it_fails(finish), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass_on(
    directions: Sequence[Layer],
    call: LayerCall,
    receive: Receive,
    prove: Prove | None,
    holds_rounded: bool = False,
) -> None:
    """Give what a call was to `receive`, and how its replay compares to `prove`."""
    first = directions[0]
    reader, module = first.reader, first.module
    extra = left_over(reader, module)
    if extra and prove is not None:
        shown = ", ".join(extra[:6]) + (" ..." if len(extra) > 6 else "")
        prove(directions, unread(f"nothing says what its parameters do: {shown}"))
        return
    try:
        call = _with_all_seen(reader, module, call)
        recurrences = [layer.adapter.read(module, call) for layer in directions]
        for recurrence in recurrences:
            recurrence.state_norms([0])  # fails where what was read does not fit together
    except Exception as error:  # a look-alike may fail anywhere in a reading that is not its own
        if prove is None or is_from_outside(type(reader)):
            raise
        why = f"it has the parts of {first.kind}, but cannot be read as such: {_reason(error)}"
        prove(directions, unread(why))
        return
    for layer, recurrence in zip(directions, recurrences, strict=True):
        receive(layer, call.hidden_states, recurrence)
    if prove is not None:
        try:
            replay = replayed(reader, module, call, recurrences, holds_rounded)
        except Exception as error:
            if is_from_outside(type(reader)):
                raise
            replay = unread(
                f"its own result cannot be computed from what was read: {_reason(error)}"
            )
        prove(directions, replay)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _prove(directions: Sequence[Layer], call: LayerCall, prove: Prove, holds_rounded: bool) -> None:
    """Compare the replay of a call of which nothing else is wanted."""
    _pass_on(directions, call, lambda layer, hidden, recurrence: None, prove, holds_rounded)


def _for_failures(prove: Prove) -> Prove:
    """Report only what cannot be read at all; the proof comes from another call."""

    def only_failures(directions: Sequence[Layer], replay: Replay) -> None:
        if replay.difference != replay.difference and replay.why_not is not None:
            prove(directions, replay)

    return only_failures


def _with_all_seen(reader: Adapter, module: nn.Module, call: LayerCall) -> LayerCall:
    """The call with every submodule that the reader watches called, if a kernel went round any."""
    if all(name in call.seen for name in reader.watched):
        return call
    seen = dict(call.seen)
    handles = [
        getattr(module, name).register_forward_hook(_remembering(name, seen))
        for name in reader.watched
    ]
    try:
        reader.replay(module, call)
    finally:
        for handle in handles:
            handle.remove()
    return replace(call, seen=seen)


def _remembering(
    name: str, seen: dict[str, Seen], times: Counter[str] | None = None
) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if times is not None:
            times[name] += 1
        if args and isinstance(output, Tensor):
            seen[name] = Seen(whole(args[0]), whole(output))

    return hook


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return whole(output)
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return None
    return next((whole(value) for value in values if isinstance(value, Tensor)), None)
