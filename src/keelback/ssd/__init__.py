"""Mamba-2's scan by heads (state-space duality), gated linear attention, and steps of both."""

from keelback.ssd._api import ssd, ssd_step
from keelback.ssd._attention import gated_linear_attention, gated_linear_attention_step

__all__ = ["gated_linear_attention", "gated_linear_attention_step", "ssd", "ssd_step"]
