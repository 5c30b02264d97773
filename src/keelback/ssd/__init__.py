"""Mamba-2's scan by heads: state-space duality, on the matrix units of a GPU."""

from keelback.ssd._api import ssd, ssd_step

__all__ = ["ssd", "ssd_step"]
