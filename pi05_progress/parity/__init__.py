"""Comparisons with recorded numbers of openpi's and LeRobot's; ``python -m pi05_progress.models.parity`` makes all.

Each module that knows a kind of recorded set lists it in its ``KINDS``: ``model``, ``pytorch`` (LeRobot's PyTorch
model), ``transforms``, ``prompts`` and ``wire``. What they share is exported here and needs no JAX.
"""

from .checks import EXACT, FORWARD, Check, Tolerance, compare, npz_names, read_json, read_npz, same, skip
from .program import Kind, find_sets, run_program

__all__ = [
    "EXACT",
    "FORWARD",
    "Check",
    "Kind",
    "Tolerance",
    "compare",
    "find_sets",
    "npz_names",
    "read_json",
    "read_npz",
    "run_program",
    "same",
    "skip",
]
