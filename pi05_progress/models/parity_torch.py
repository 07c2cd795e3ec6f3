"""Golden sets of LeRobot's PyTorch model. Filled in together with the import of its weights."""

from __future__ import annotations

KINDS: list = []
