"""Adapters: one small class for each kind of state-space layer that an audit can read."""

from keelback.audit._delta_rule import DeltaRuleRecurrence
from keelback.audit._recurrence import SelectiveRecurrence
from keelback.audit.adapters.base import Adapter, LayerCall, Seen
from keelback.audit.adapters.delta_net import (
    GatedDeltaNetAdapter,
    KimiDeltaAdapter,
    OlmoHybridAdapter,
    Qwen3NextAdapter,
    Qwen35Adapter,
)
from keelback.audit.adapters.mamba import MambaAdapter, MultiHeadMambaAdapter
from keelback.audit.adapters.mamba2 import Mamba2Adapter
from keelback.audit.adapters.own import MambaBlockAdapter, SelectiveSSMAdapter

ADAPTERS: list[Adapter] = [
    SelectiveSSMAdapter(),
    MambaBlockAdapter(),
    MambaAdapter(),
    MultiHeadMambaAdapter(),
    Mamba2Adapter(),
    Qwen3NextAdapter(),
    Qwen35Adapter(),
    OlmoHybridAdapter(),
    KimiDeltaAdapter(),
]
"""Tried in this order; insert your own in front."""

__all__ = [
    "ADAPTERS",
    "Adapter",
    "DeltaRuleRecurrence",
    "GatedDeltaNetAdapter",
    "KimiDeltaAdapter",
    "LayerCall",
    "Mamba2Adapter",
    "MambaAdapter",
    "MambaBlockAdapter",
    "MultiHeadMambaAdapter",
    "OlmoHybridAdapter",
    "Qwen3NextAdapter",
    "Qwen35Adapter",
    "Seen",
    "SelectiveRecurrence",
    "SelectiveSSMAdapter",
]
