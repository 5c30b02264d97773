"""Recurrences whose states are one number per channel: RG-LRU's, and RWKV's weighted mean."""

from keelback.recurrence._api import diagonal_recurrence
from keelback.recurrence._wkv import WkvStates, wkv

__all__ = ["WkvStates", "diagonal_recurrence", "wkv"]
