"""The causal convolution of a Mamba block: bias and SiLU in one kernel, on CPU and GPU."""

from keelback.conv._api import causal_conv1d, causal_conv1d_update

__all__ = ["causal_conv1d", "causal_conv1d_update"]
