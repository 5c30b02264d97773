"""What a trainer's callback needs: the monitor, and what the model was last called with."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from keelback.audit._arguments import given
from keelback.audit._inputs import are_tokens
from keelback.audit._layers import Layer, find_layers
from keelback.audit._model import unwrapped
from keelback.audit.monitoring._monitor import Optimizers, TrainingMonitor
from keelback.audit.monitoring._readings import few, run_on
from keelback.errors import InputError

logger = logging.getLogger("keelback")

_FOR_THE_LOSS = ("labels", "num_items_in_batch", "return_loss", "loss_kwargs")


class LastCall:
    """Remembers the last call in training of what holds the state-space layers, to repeat it.

    That is the outermost module which holds them all and is called as a module; a training step
    that goes round all such modules calls at least the layers themselves.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self._holders = _holders(model, layers)
        self._call: tuple[nn.Module, dict[str, Any]] | None = None
        self._of_layers: dict[nn.Module, dict[str, Any]] = {}
        self._repeats = False
        watched = {*self._holders, *(layer.module for layer in layers)}
        self._handles = [
            module.register_forward_pre_hook(self._remember, with_kwargs=True) for module in watched
        ]

    @property
    def is_there(self) -> bool:
        """Whether there was a call."""
        return self._call is not None or bool(self._of_layers)

    def repeat(self) -> None:
        """Call it again, on the first few sequences."""
        calls = [self._call] if self._call is not None else list(self._of_layers.items())
        self._repeats = True
        try:
            for module, arguments in calls:
                _call_again(module, arguments)
        finally:
            self._repeats = False

    def forget(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._call, self._of_layers = None, {}

    def _remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._repeats or not module.training or "forward" in module.__dict__:
            return  # a trainer that calls its own step through the module's forward pass
        arguments = given(module, args, kwargs)
        if not any(isinstance(x, Tensor) and x.ndim > 0 for x in arguments.values()):
            return
        kept = {name: x.detach() if isinstance(x, Tensor) else x for name, x in arguments.items()}
        outer = self._holders[: self._holders.index(self._call[0])] if self._call else self._holders
        if module in outer or (self._call is not None and module is self._call[0]):
            self._call, self._of_layers = (module, kept), {}
        elif self._call is None:
            self._of_layers[module] = few(kept)


def _holders(model: nn.Module, layers: Sequence[Layer]) -> list[nn.Module]:
    """The modules that hold every layer, the outermost first; without the layers themselves."""
    own = {id(layer.module) for layer in layers}
    return [
        module
        for module in model.modules()
        if id(module) not in own and own <= {id(part) for part in module.modules()}
    ]


def _call_again(module: nn.Module, arguments: Mapping[str, Any]) -> None:
    own = unwrapped(module)
    tokens = arguments.get("input_ids", next(iter(arguments.values()), None))
    others = [n for n, x in arguments.items() if isinstance(x, Tensor) and x.is_floating_point()]
    if isinstance(tokens, Tensor) and tokens.ndim == 2 and are_tokens(tokens) and not others:
        run_on(own, tokens)
        return
    again = {name: x for name, x in few(arguments).items() if name not in _FOR_THE_LOSS}
    if "use_cache" in again:
        again["use_cache"] = False
    by_place = [x for name, x in again.items() if name.startswith("argument ")]
    own(*by_place, **{n: x for n, x in again.items() if not n.startswith("argument ")})


class Watch:
    """What callbacks share: a monitor, the last call, and a line in the log per alarm."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._last: LastCall | None = None
        self._earlier: Mapping[str, Any] | None = None
        self.monitor: TrainingMonitor | None = None

    def begin(self, model: nn.Module) -> None:
        """Watch a model that is about to be trained.

        Raises:
            InputError: it has no state-space layer, and something was to be done about alarms.
        """
        own = unwrapped(model)
        try:
            self.monitor = TrainingMonitor(own, **self._options)
        except InputError as error:
            if self._options["action"] != "warn":
                raise
            logger.warning("%s; the training goes on without a monitor", error)
            return
        if self._earlier is not None:
            self.monitor.load_state_dict(self._earlier)
        self._last = LastCall(own, find_layers(own))

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier training's readings."""
        if self.monitor is None:
            self._earlier = state
        else:
            self.monitor.load_state_dict(state)

    def state(self) -> dict[str, Any]:
        """What to resume from."""
        return dict(self._earlier or {}) if self.monitor is None else self.monitor.state_dict()

    def step(self, step: int, optimizers: Optimizers, schedulers: Any) -> bool:
        """After a step: whether there is a new reading."""
        if self.monitor is None or self._last is None:
            return False
        readings = len(self.monitor.readings)
        run = self._last.repeat if self._last.is_there else None
        for alarm in self.monitor.after_step(step, run, optimizers, schedulers):
            logger.warning("step %d: %s; action: %s", alarm.step, alarm.message, alarm.action)
        return len(self.monitor.readings) > readings

    def end(self) -> None:
        """Watch no longer."""
        if self._last is not None:
            with suppress(Exception):
                self._last.forget()
            self._last = None


def as_plain(optimizers: Any) -> list[Any]:
    """The optimisers inside the wrappers of accelerate, DeepSpeed and Lightning."""
    several = optimizers if isinstance(optimizers, list | tuple) else [optimizers]
    return [getattr(own, "optimizer", own) for own in several if own is not None]
