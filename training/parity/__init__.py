"""Comparison of training with recorded runs of openpi's; ``python -m training.parity`` makes it."""

from .sets import KINDS

__all__ = ["KINDS"]
