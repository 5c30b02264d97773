"""Watching a training: readings now and then, alarms, actions, and the trainers of others."""

from keelback.audit.monitoring._alarms import Action, Alarm
from keelback.audit.monitoring._callbacks import transformers_callback
from keelback.audit.monitoring._lightning import lightning_callback
from keelback.audit.monitoring._monitor import TrainingMonitor
from keelback.audit.monitoring._readings import LayerReading
from keelback.audit.monitoring._trackers import log_to_open_runs, log_to_tensorboard

__all__ = [
    "Action",
    "Alarm",
    "LayerReading",
    "TrainingMonitor",
    "lightning_callback",
    "log_to_open_runs",
    "log_to_tensorboard",
    "transformers_callback",
]
