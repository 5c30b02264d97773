"""Adapters from outside: how they are registered, and what is asked of what they give."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import Adapter, LayerCall
from keelback.errors import InputError, in_one_line
from keelback.plugins import check_output, require_methods
from keelback.registry import Registry, is_from_outside, require_name

AdapterT = TypeVar("AdapterT", bound=Adapter)


def register_adapter(adapter: type[AdapterT]) -> type[AdapterT]:
    """Let audits and repairs read another kind of layer; use it as a class decorator.

    The class is called without arguments. Its adapter is asked before those that are known already.

    Raises:
        InputError: it is no whole adapter, or another one has its name.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise InputError(
            f"{adapter!r} is no adapter: derive a class from keelback.audit.adapters.Adapter"
        )
    missing = sorted(getattr(adapter, "__abstractmethods__", ()))
    missing += [] if hasattr(adapter, "kind") else ["kind"]
    if missing:
        raise InputError(f"the adapter {adapter.__qualname__} lacks {', '.join(missing)}")
    require_name("kind of layer", adapter.kind)
    watched = adapter.watched
    if not isinstance(watched, tuple) or not all(isinstance(name, str) for name in watched):
        raise InputError(
            f"watched of the adapter {adapter.__qualname__} is {watched!r}; it should be a tuple "
            "of names of submodules"
        )
    if is_from_outside(adapter):
        for method, check in _CHECKS.items():
            check_output(adapter, method, check)
    made = adapter()
    require_methods(made, _CHECKS)
    REGISTERED.add(adapter.__name__, made)
    return adapter


REGISTERED: Registry[Adapter] = Registry("adapter", "keelback.adapters", register_adapter)
"""The adapters that do not come with keelback, by the name of their class."""


def _check_matches(adapter: Adapter, matches: object, module: nn.Module) -> bool:
    if not isinstance(matches, bool):
        raise InputError(f"matches() gives {_told(matches)}; it should be True or False")
    if matches:
        absent = [n for n in adapter.watched if not isinstance(getattr(module, n, None), nn.Module)]
        if absent:
            raise InputError(
                f"{type(module).__name__} matches, but `watched` names {absent[0]}, which is no "
                "submodule of it"
            )
    return matches


def _check_state_matrix(adapter: Adapter, A: object, module: nn.Module) -> Tensor:
    if not isinstance(A, Tensor) or not A.is_floating_point() or A.ndim != 2 or not A.numel():
        raise InputError(
            f"the state matrix is {_told(A)}; it should be a floating-point tensor (rates, state)"
        )
    if not bool(A.isfinite().all()):
        raise InputError("the state matrix holds NaN or infinity")
    return A.detach()


def _check_read(
    adapter: Adapter, recurrence: object, module: nn.Module, call: LayerCall
) -> Recurrence:
    if not isinstance(recurrence, Recurrence):
        raise InputError(f"read() gives {_told(recurrence)}; it should be a Recurrence")
    batch, length = call.hidden_states.shape[0], call.hidden_states.shape[1:-1].numel()
    delta, A = getattr(recurrence, "delta", None), getattr(recurrence, "A", None)
    if not isinstance(A, Tensor) or A.ndim != 2:
        raise InputError(f"A of the recurrence is {_told(A)}; it should be (rates, state)")
    if not isinstance(delta, Tensor) or tuple(delta.shape) != (batch, length, len(A)):
        raise InputError(
            f"delta of the recurrence is {_told(delta)}; it should be (batch, length, rates), "
            f"{(batch, length, len(A))}"
        )
    try:
        y = recurrence.output()
    except (ValueError, RuntimeError, IndexError) as error:
        raise InputError(f"the recurrence cannot be computed: {in_one_line(error)}") from error
    if tuple(y.shape[:2]) != (batch, length):
        raise InputError(
            f"the recurrence gives {_told(y)} for {batch} sequences of {length} tokens"
        )
    return recurrence


def _check_edits(
    adapter: Adapter, edits: object, module: nn.Module, *_: Any, **__: Any
) -> Mapping[str, Tensor] | None:
    if edits is None:
        return None
    if not isinstance(edits, Mapping):
        raise InputError(f"an edit is {_told(edits)}; it should be new parameters by name, or None")
    parameters = dict(module.named_parameters())
    for name, value in edits.items():
        if name not in parameters:
            raise InputError(f"an edit names {name!r}, no parameter of {type(module).__name__}")
        if not isinstance(value, Tensor) or value.shape != parameters[name].shape:
            wanted = tuple(parameters[name].shape)
            raise InputError(f"an edit makes {name} {_told(value)}; it should be of shape {wanted}")
    return edits


def _check_hand_on(adapter: Adapter, handed: object, *_: Any, **__: Any) -> Tensor | None:
    if handed is not None and not isinstance(handed, Tensor):
        raise InputError(f"hand_on() gives {_told(handed)}; it should be a tensor, or None")
    return handed


def _check_directions(
    adapter: Adapter, directions: object, module: nn.Module
) -> Mapping[str, Adapter]:
    if not isinstance(directions, Mapping) or not directions:
        raise InputError(f"directions() gives {_told(directions)}; it should be adapters by name")
    for name, own in directions.items():
        if not isinstance(name, str) or not isinstance(own, Adapter):
            raise InputError(f"directions() gives {_told(own)} for {name!r}, which is no adapter")
    return directions


def _check_goes_on(adapter: Adapter, told: object, *_: Any, **__: Any) -> bool | None:
    if told is not None and not isinstance(told, bool):
        raise InputError(f"goes_on() gives {_told(told)}; it should be True, False or None")
    return told


_CHECKS: dict[str, Any] = {
    "matches": _check_matches,
    "state_matrix": _check_state_matrix,
    "read": _check_read,
    "hand_on": _check_hand_on,
    "directions": _check_directions,
    "goes_on": _check_goes_on,
    "edit_rates": _check_edits,
    "edit_steps": _check_edits,
}


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return repr(value) if value is None else f"a {type(value).__name__}"
