"""Audit and repair: what a trained state-space model does with its state, and for how long."""

from keelback.audit._layers import Layer, find_layers, not_audited, watching
from keelback.audit._load import LoadedModel, load_model
from keelback.audit._recurrence import Recurrence

__all__ = [
    "Layer",
    "LoadedModel",
    "Recurrence",
    "find_layers",
    "load_model",
    "not_audited",
    "watching",
]
