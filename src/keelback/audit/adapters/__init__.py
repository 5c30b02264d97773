"""Adapters: one small class for each kind of state-space layer that an audit can read."""

import warnings

from keelback.audit._delta_rule import DeltaRuleRecurrence
from keelback.audit._generalised_rule import GeneralisedDeltaRecurrence
from keelback.audit._linear_attention import LinearAttentionRecurrence
from keelback.audit._recurrence import SelectiveRecurrence
from keelback.audit._trapezoidal import TrapezoidalRecurrence
from keelback.audit.adapters.base import Adapter, LayerCall, Seen
from keelback.audit.adapters.bidirectional import BidirectionalMambaAdapter
from keelback.audit.adapters.cross_scan import CrossScanAdapter
from keelback.audit.adapters.delta_net import (
    GatedDeltaNetAdapter,
    KimiDeltaAdapter,
    OlmoHybridAdapter,
    Qwen3NextAdapter,
    Qwen35Adapter,
)
from keelback.audit.adapters.fla_delta import FlaGatedDeltaNetAdapter, FlaKimiDeltaAdapter
from keelback.audit.adapters.fla_linear import (
    GatedLinearAttentionAdapter,
    Hgrn2Adapter,
    RetentionAdapter,
    SimpleGatedLinearAttentionAdapter,
)
from keelback.audit.adapters.linear import GatedLinearUnitAdapter, LightningAttentionAdapter
from keelback.audit.adapters.mamba import MambaAdapter, MultiHeadMambaAdapter
from keelback.audit.adapters.mamba2 import Mamba2Adapter
from keelback.audit.adapters.mamba3 import Mamba3Adapter, ReferenceMamba3Adapter
from keelback.audit.adapters.normalised import (
    FusedMatrixMemoryAdapter,
    MatrixMemoryAdapter,
    RwkvAdapter,
)
from keelback.audit.adapters.own import MambaBlockAdapter, SelectiveSSMAdapter
from keelback.audit.adapters.registered import REGISTERED, register_adapter
from keelback.audit.adapters.rwkv7 import FlaRwkv7Adapter, Rwkv7Adapter
from keelback.registry import PluginWarning

ADAPTERS: list[Adapter] = [
    SelectiveSSMAdapter(),
    MambaBlockAdapter(),
    BidirectionalMambaAdapter(),
    CrossScanAdapter(),
    MambaAdapter(),
    MultiHeadMambaAdapter(),
    Mamba2Adapter(),
    Mamba3Adapter(),
    ReferenceMamba3Adapter(),
    Qwen3NextAdapter(),
    Qwen35Adapter(),
    OlmoHybridAdapter(),
    KimiDeltaAdapter(),
    FlaGatedDeltaNetAdapter(),
    FlaKimiDeltaAdapter(),
    LightningAttentionAdapter(),
    GatedLinearUnitAdapter(),
    GatedLinearAttentionAdapter(),
    SimpleGatedLinearAttentionAdapter(),
    RetentionAdapter(),
    Hgrn2Adapter(),
    RwkvAdapter(),
    Rwkv7Adapter(),
    FlaRwkv7Adapter(),
    MatrixMemoryAdapter(),
    FusedMatrixMemoryAdapter(),
]
"""keelback's own, tried in this order, after those that `register_adapter` added."""


def known_adapters() -> list[Adapter]:
    """All adapters in the order in which they are tried: the one registered last comes first.

    Those of installed packages that cannot be loaded are named in a `PluginWarning`.
    """
    for problem in REGISTERED.load_all():
        warnings.warn(f"{problem}; its layers are not audited", PluginWarning, stacklevel=3)
    return [*reversed(REGISTERED.registered().values()), *ADAPTERS]


__all__ = [
    "ADAPTERS",
    "REGISTERED",
    "Adapter",
    "BidirectionalMambaAdapter",
    "CrossScanAdapter",
    "DeltaRuleRecurrence",
    "FlaGatedDeltaNetAdapter",
    "FlaKimiDeltaAdapter",
    "FlaRwkv7Adapter",
    "FusedMatrixMemoryAdapter",
    "GatedDeltaNetAdapter",
    "GatedLinearAttentionAdapter",
    "GatedLinearUnitAdapter",
    "GeneralisedDeltaRecurrence",
    "Hgrn2Adapter",
    "KimiDeltaAdapter",
    "LayerCall",
    "LightningAttentionAdapter",
    "LinearAttentionRecurrence",
    "Mamba2Adapter",
    "Mamba3Adapter",
    "MambaAdapter",
    "MambaBlockAdapter",
    "MatrixMemoryAdapter",
    "MultiHeadMambaAdapter",
    "OlmoHybridAdapter",
    "Qwen3NextAdapter",
    "Qwen35Adapter",
    "ReferenceMamba3Adapter",
    "RetentionAdapter",
    "Rwkv7Adapter",
    "RwkvAdapter",
    "Seen",
    "SelectiveRecurrence",
    "SelectiveSSMAdapter",
    "SimpleGatedLinearAttentionAdapter",
    "TrapezoidalRecurrence",
    "known_adapters",
    "register_adapter",
]
