"""keelback keeps selective state-space models upright: train, measure, bound and repair them."""

__version__ = "0.1.0.dev0"
