"""The causal convolution on the CPU."""
