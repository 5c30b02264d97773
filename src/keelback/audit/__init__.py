"""Audit and repair: what a trained state-space model does with its state, and for how long."""

from keelback.audit._layers import Layer, find_layers, not_audited, watching
from keelback.audit._recurrence import Recurrence

__all__ = ["Layer", "Recurrence", "find_layers", "not_audited", "watching"]
