"""Audit and repair: what a trained state-space model does with its state, and for how long.

`keelback.audit(model, tokens)` is `keelback.audit.audit(model, tokens)`: the module can be called.
"""

import sys
from functools import wraps
from types import ModuleType
from typing import Any

from keelback._moved import moved
from keelback.audit._degradation import Degradation
from keelback.audit._findings import Finding
from keelback.audit._input import default_length, read_features, read_input
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, find_layers, not_audited, watching
from keelback.audit._measures import LayerMeasures
from keelback.audit._model import train_length_of, unwrapped
from keelback.audit._precision import PrecisionEffect, precision_effects
from keelback.audit._recurrence import Recurrence
from keelback.audit._result import AuditResult, PositionLoss
from keelback.audit._run import audit
from keelback.audit._tokens import bundled_text, load_tokenizer, read_text, read_tokens
from keelback.audit.checkpoints import (
    LoadedModel,
    Undone,
    load_any_model,
    require_free,
    require_savable,
    save_repaired,
    undo_repair,
    whole_folder,
)
from keelback.audit.monitoring import (
    Action,
    Alarm,
    LayerReading,
    TrainingMonitor,
    lightning_callback,
    log_to_open_runs,
    log_to_tensorboard,
    transformers_callback,
)
from keelback.audit.repairs import METHODS, SEARCHES, Change, HeldOutLoss, Repair, repair

__all__ = [
    "METHODS",
    "SEARCHES",
    "Action",
    "Alarm",
    "AuditResult",
    "Change",
    "Degradation",
    "Finding",
    "HeldOutLoss",
    "Layer",
    "LayerMeasures",
    "LayerReading",
    "LoadedModel",
    "PositionLoss",
    "PrecisionEffect",
    "Recurrence",
    "Repair",
    "TrainingMonitor",
    "Undone",
    "audit",
    "bundled_text",
    "default_length",
    "fast_scans",
    "find_layers",
    "lightning_callback",
    "load_any_model",
    "load_tokenizer",
    "log_to_open_runs",
    "log_to_tensorboard",
    "not_audited",
    "precision_effects",
    "read_features",
    "read_input",
    "read_text",
    "read_tokens",
    "repair",
    "require_free",
    "require_savable",
    "save_repaired",
    "train_length_of",
    "transformers_callback",
    "undo_repair",
    "unwrapped",
    "watching",
    "whole_folder",
]

__getattr__ = moved(__name__, {"load_model": "keelback.audit:load_any_model"})


class _CallableModule(ModuleType):
    @wraps(audit)
    def __call__(self, *args: Any, **kwargs: Any) -> AuditResult:
        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
