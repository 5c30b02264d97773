"""The selective scan: the recurrence under every selective state-space model."""

from keelback.conv._api import causal_conv1d, causal_conv1d_update
from keelback.scan._across import selective_scan_across
from keelback.scan._api import selective_scan
from keelback.scan._attention import attention_matrix
from keelback.scan._inner import mamba_inner
from keelback.scan._mamba_ssm import selective_scan_fn, selective_state_update
from keelback.scan._step import selective_scan_step
from keelback.scan._switched import can_switch, switched_scan

__all__ = [
    "attention_matrix",
    "can_switch",
    "causal_conv1d",
    "causal_conv1d_update",
    "mamba_inner",
    "selective_scan",
    "selective_scan_across",
    "selective_scan_fn",
    "selective_scan_step",
    "selective_state_update",
    "switched_scan",
]
