"""Experiments of arXiv 2602.12499."""
