"""The gated delta rule, with one decay per head or per key channel, and RWKV-7's; steps of both."""

from keelback.delta._api import delta_rule, delta_rule_step
from keelback.delta._generalised import generalised_delta_rule, generalised_delta_rule_step

__all__ = [
    "delta_rule",
    "delta_rule_step",
    "generalised_delta_rule",
    "generalised_delta_rule_step",
]
