"""Comparison of training with recorded runs of openpi's; ``python -m training.parity`` makes it."""
