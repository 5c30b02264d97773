"""The selective scan: the recurrence under every selective state-space model."""

from keelback.scan._api import selective_scan

__all__ = ["selective_scan"]
