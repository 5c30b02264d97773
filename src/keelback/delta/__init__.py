"""The gated delta rule, with one decay per head or one per key channel, and one step of it."""

from keelback.delta._api import delta_rule, delta_rule_step

__all__ = ["delta_rule", "delta_rule_step"]
