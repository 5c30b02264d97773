"""Mamba-2's scan by heads (state-space duality), gated linear attention, Mamba-3; steps of all."""

from keelback.ssd._across import ssd_across
from keelback.ssd._api import ssd, ssd_step
from keelback.ssd._attention import gated_linear_attention, gated_linear_attention_step
from keelback.ssd._mamba3 import Mamba3States, mamba3, mamba3_step

__all__ = [
    "Mamba3States",
    "gated_linear_attention",
    "gated_linear_attention_step",
    "mamba3",
    "mamba3_step",
    "ssd",
    "ssd_across",
    "ssd_step",
]
