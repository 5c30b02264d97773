"""The causal convolution on NVIDIA GPUs."""
