"""The gated norm behind a scan by heads or a delta rule: one kernel each way, on CPU and GPU."""

from keelback.norm._api import gated_rms_norm

__all__ = ["gated_rms_norm"]
