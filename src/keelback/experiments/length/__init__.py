"""Experiments on lengths beyond the training length."""
