"""Audit and repair: what a trained state-space model does with its state, and for how long.

`keelback.audit(model, tokens)` is `keelback.audit.audit(model, tokens)`: the module can be called.
"""

import sys
from functools import wraps
from types import ModuleType
from typing import Any

from keelback._moved import moved
from keelback.audit._callbacks import lightning_callback, transformers_callback
from keelback.audit._degradation import Degradation
from keelback.audit._input import default_length, read_features, read_input
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, find_layers, not_audited, watching
from keelback.audit._load import LoadedModel, load_any_model, train_length_of
from keelback.audit._measures import LayerMeasures
from keelback.audit._monitor import Action, Alarm, LayerReading, TrainingMonitor
from keelback.audit._precision import PrecisionEffect, precision_effects
from keelback.audit._recurrence import Recurrence
from keelback.audit._repair import METHODS, SEARCHES, HeldOutLoss, Repair, repair
from keelback.audit._result import AuditResult, PositionLoss
from keelback.audit._run import audit
from keelback.audit._save import require_free, save_loaded, save_repaired, undo_repair
from keelback.audit._tokens import bundled_text, load_tokenizer, read_text, read_tokens
from keelback.audit._verdict import Finding

__all__ = [
    "METHODS",
    "SEARCHES",
    "Action",
    "Alarm",
    "AuditResult",
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
    "audit",
    "bundled_text",
    "default_length",
    "fast_scans",
    "find_layers",
    "lightning_callback",
    "load_any_model",
    "load_tokenizer",
    "not_audited",
    "precision_effects",
    "read_features",
    "read_input",
    "read_text",
    "read_tokens",
    "repair",
    "require_free",
    "save_loaded",
    "save_repaired",
    "train_length_of",
    "transformers_callback",
    "undo_repair",
    "watching",
]

__getattr__ = moved(__name__, {"load_model": "keelback.audit:load_any_model"})


class _CallableModule(ModuleType):
    @wraps(audit)
    def __call__(self, *args: Any, **kwargs: Any) -> AuditResult:
        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
