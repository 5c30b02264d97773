"""Repair: edits of how layers forget, the search for the best, and what they gain and cost."""

from keelback.audit.repairs._bench import HeldOutLoss
from keelback.audit.repairs._gain import Change
from keelback.audit.repairs._repair import METHODS, SEARCHES, Repair, repair

__all__ = ["METHODS", "SEARCHES", "Change", "HeldOutLoss", "Repair", "repair"]
