"""The training monitor at home in the trainers of transformers and Lightning."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from keelback.audit._monitor import Action, TrainingMonitor
from keelback.errors import InputError

logger = logging.getLogger("keelback")


class _LastTokens:
    """Remembers the token ids that a model was last called with, by a hook on its forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.tokens: Tensor | None = None
        self._handle = model.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("input_ids", args[0] if args else None)
        if module.training and isinstance(given, Tensor) and given.ndim == 2:
            self.tokens = given.detach()

    def forget(self) -> None:
        self._handle.remove()


class _Watch:
    """What the two callbacks share: a monitor, the last batch, and a line in the log per alarm."""

    def __init__(self, every: int, horizon: int, action: Action) -> None:
        self._options: dict[str, Any] = {"every": every, "horizon": horizon, "action": action}
        self._last: _LastTokens | None = None
        self.monitor: TrainingMonitor | None = None

    def begin(self, model: nn.Module) -> None:
        self.monitor = TrainingMonitor(model, **self._options)
        self._last = _LastTokens(model)

    def step(self, step: int, optimizer: torch.optim.Optimizer | None) -> TrainingMonitor:
        assert self.monitor is not None
        assert self._last is not None
        if self._last.tokens is not None:
            for alarm in self.monitor.after_step(step, self._last.tokens, optimizer):
                logger.warning("step %d: %s; action: %s", alarm.step, alarm.message, alarm.action)
        return self.monitor

    def end(self) -> None:
        if self._last is not None:
            self._last.forget()
            self._last = None


def transformers_callback(*, every: int = 50, horizon: int = 200, action: Action = "warn") -> Any:
    """A `TrainerCallback` of transformers with a `TrainingMonitor` inside.

    For `Trainer(callbacks=[...])`. Its `monitor` attribute has the readings and alarms. The last
    reading joins the trainer's log history, alarms go to the `keelback` logger, and "stop" ends the
    training after the step.

    Raises:
        InputError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise InputError("transformers is not installed: pip install 'keelback[hf]'") from None

    class MonitorCallback(TrainerCallback):
        def __init__(self) -> None:
            self._watch = _Watch(every, horizon, action)

        @property
        def monitor(self) -> TrainingMonitor | None:
            return self._watch.monitor

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
        ) -> None:
            self._watch.begin(model)

        def on_step_end(
            self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
        ) -> None:
            monitor = self._watch.step(
                state.global_step, getattr(optimizer, "optimizer", optimizer)
            )
            control.should_training_stop |= monitor.should_stop

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if self.monitor is None or not self.monitor.readings:
                return
            for entry in (logs, state.log_history[-1] if state.log_history else None):
                if entry is not None:
                    entry.update(self.monitor.summary())

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._watch.end()

    return MonitorCallback()


def lightning_callback(*, every: int = 50, horizon: int = 200, action: Action = "warn") -> Any:
    """A `Callback` of Lightning with a `TrainingMonitor` inside, for `Trainer(callbacks=[...])`.

    Works with `lightning` and with `pytorch_lightning`. The module's own submodules are watched, so
    the model that reads token ids must be one of them, or the module itself.

    Raises:
        InputError: Lightning is not installed.
    """
    base = _lightning_base()

    class MonitorCallback(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self._watch = _Watch(every, horizon, action)

        @property
        def monitor(self) -> TrainingMonitor | None:
            return self._watch.monitor

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._watch.begin(_reader_of_tokens(pl_module))

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            optimizer = trainer.optimizers[0] if trainer.optimizers else None
            monitor = self._watch.step(trainer.global_step, optimizer)
            if monitor.readings and monitor.readings[-1].step == trainer.global_step:
                pl_module.log_dict(monitor.summary())
            trainer.should_stop |= monitor.should_stop

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._watch.end()

    return MonitorCallback()


def _lightning_base() -> Any:
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return __import__(package, fromlist=["Callback"]).Callback
        except ImportError:
            continue
    raise InputError("Lightning is not installed: pip install lightning")


def _reader_of_tokens(pl_module: nn.Module) -> nn.Module:
    """The largest child, which is the model in a module that only wraps one; else the module."""
    children = sorted(
        pl_module.children(), key=lambda child: -sum(p.numel() for p in child.parameters())
    )
    own = any(True for _ in pl_module.parameters(recurse=False))
    return pl_module if own or not children else children[0]
