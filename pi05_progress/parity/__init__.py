"""Comparisons with recorded numbers of openpi's and LeRobot's; ``python -m pi05_progress.models.parity`` makes all.

Each module that knows a kind of recorded set lists it in its ``KINDS``: ``model``, ``pytorch`` (LeRobot's PyTorch
model), ``transforms``, ``prompts`` and ``wire``. They share ``checks`` and ``program``, which need no JAX.
"""
