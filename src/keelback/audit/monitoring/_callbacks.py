"""The training monitor in the trainer of transformers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keelback.audit.monitoring._alarms import Action
from keelback.audit.monitoring._monitor import TrainingMonitor
from keelback.audit.monitoring._trackers import Log, log_to_open_runs, log_to_tensorboard
from keelback.audit.monitoring._watch import Watch, as_plain
from keelback.errors import InputError


def transformers_callback(
    *, every: int = 50, horizon: int = 200, action: Action = "warn", log: Log | None = None
) -> Any:
    """A `TrainerCallback` of transformers with a `TrainingMonitor` inside.

    For `Trainer(callbacks=[...])`. Its `monitor` attribute has the readings and alarms. Readings
    join the trainer's log history, and go to TensorBoard where `report_to` names it (as a run
    `keelback` beside the trainer's) and to open runs of Weights & Biases, MLflow and Trackio.
    Alarms go to the `keelback` logger, and "stop" ends the training after the step. Readings are
    kept in the trainer's checkpoints; a training that resumes from one goes on with them.

    Args:
        every: steps between readings.
        horizon: how many steps to look ahead.
        action: what to do about an alarm besides recording it; see `TrainingMonitor`.
        log: given each reading and its step, besides these trackers.

    Raises:
        InputError: transformers is not installed.

    Examples:
        >>> callback = transformers_callback(every=50, action="clip")
        >>> type(callback).__mro__[1].__name__  # give it to Trainer(callbacks=[callback])
        'TrainerCallback'
    """
    try:
        from transformers import TrainerCallback
        from transformers.trainer_callback import ExportableState
    except ImportError:
        raise InputError("transformers is not installed: pip install 'keelback[hf]'") from None
    chosen: dict[str, Any] = {"every": every, "horizon": horizon, "action": action}

    class MonitorCallback(TrainerCallback, ExportableState):
        def __init__(self, **options: Any) -> None:
            self._options = chosen | options
            self._logs: list[Log] = [log_to_open_runs, *([log] if log is not None else [])]
            self._watch = Watch({**self._options, "log": self._log})

        def _log(self, values: Mapping[str, float], step: int) -> None:
            for own in self._logs:
                own(values, step)

        @property
        def monitor(self) -> TrainingMonitor | None:
            return self._watch.monitor

        def state(self) -> dict[str, Any]:
            return {"args": self._options, "attributes": {"earlier": self._watch.state()}}

        @property
        def earlier(self) -> dict[str, Any]:
            return self._watch.state()

        @earlier.setter
        def earlier(self, state: dict[str, Any]) -> None:
            self._watch.resume(state)

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
        ) -> None:
            stored = (state.stateful_callbacks or {}).get(type(self).__name__)
            for one in stored if isinstance(stored, list) else [stored]:
                if isinstance(one, dict) and one["args"] == self._options and state.global_step:
                    self._watch.resume(one["attributes"]["earlier"])
            self._watch.begin(model)
            if "tensorboard" in (args.report_to or ()) and state.is_world_process_zero:
                self._logs.append(_tensorboard(args))

        def on_step_end(
            self,
            args: Any,
            state: Any,
            control: Any,
            optimizer: Any = None,
            lr_scheduler: Any = None,
            **kwargs: Any,
        ) -> None:
            self._watch.step(state.global_step, as_plain(optimizer), lr_scheduler)
            control.should_training_stop |= self.monitor is not None and self.monitor.should_stop

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


def _tensorboard(args: Any) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    folder = os.getenv("TENSORBOARD_LOGGING_DIR") or Path(args.output_dir) / "runs"
    return log_to_tensorboard(SummaryWriter(str(Path(folder).expanduser() / "keelback")))
