"""Experiments of arXiv 2502.01473."""
