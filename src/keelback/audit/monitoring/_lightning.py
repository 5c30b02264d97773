"""The training monitor in the trainer of Lightning."""

from collections.abc import Mapping
from typing import Any

from keelback.audit.monitoring._alarms import Action
from keelback.audit.monitoring._monitor import TrainingMonitor
from keelback.audit.monitoring._trackers import Log
from keelback.audit.monitoring._watch import Watch, as_plain
from keelback.errors import InputError


def lightning_callback(
    *, every: int = 50, horizon: int = 200, action: Action = "warn", log: Log | None = None
) -> Any:
    """A `Callback` of Lightning with a `TrainingMonitor` inside, for `Trainer(callbacks=[...])`.

    Works with `lightning` and with `pytorch_lightning`, with modules that hold the model and with
    modules that are the model themselves. Readings go to the trainer's loggers and its
    `callback_metrics`, are kept in its checkpoints, and a training that resumes goes on with them.

    Args:
        every: steps of the optimiser between readings.
        horizon: how many steps to look ahead.
        action: what to do about an alarm besides recording it; see `TrainingMonitor`.
        log: given each reading and its step, besides the trainer's loggers.

    Raises:
        InputError: Lightning is not installed.
    """
    base = _lightning_base()

    class MonitorCallback(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self._watch = Watch(
                {"every": every, "horizon": horizon, "action": action, "log": self._log}
            )
            self._trainer: Any = None

        def _log(self, values: Mapping[str, float], step: int) -> None:
            for logger in self._trainer.loggers:
                logger.log_metrics(dict(values), step=step)
            if log is not None:
                log(values, step)

        @property
        def monitor(self) -> TrainingMonitor | None:
            return self._watch.monitor

        def state_dict(self) -> dict[str, Any]:
            return self._watch.state()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            if state_dict:
                self._watch.resume(state_dict)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._trainer = trainer
            self._watch.begin(pl_module)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            optimizers = as_plain(trainer.optimizers)
            is_new = self._watch.step(trainer.global_step, optimizers, schedulers)
            if self.monitor is None:
                return
            if is_new:
                pl_module.log_dict(self.monitor.summary(), logger=False)
            trainer.should_stop |= self.monitor.should_stop

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
