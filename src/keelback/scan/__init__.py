"""The selective scan: the recurrence under every selective state-space model."""

from keelback.scan._api import selective_scan
from keelback.scan._attention import attention_matrix

__all__ = ["attention_matrix", "selective_scan"]
