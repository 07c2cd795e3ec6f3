"""Comparisons with recorded numbers of openpi's and LeRobot's; ``python -m pi05_progress.models.parity`` makes all.

Each module that knows kinds of recorded sets lists them in its ``KINDS``: ``model``, ``pytorch`` (LeRobot's PyTorch
model), ``transforms`` and ``wire``. They share ``checks`` and ``program``, which need no JAX.
"""
