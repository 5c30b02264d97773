"""Mamba-2's scan by heads (state-space duality), and one step of it."""

from keelback.ssd._api import ssd, ssd_step

__all__ = ["ssd", "ssd_step"]
