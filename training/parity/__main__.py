"""Compares training with recorded runs of openpi's.

    python -m training.parity test/data/golden

Reads every <name>_train.npz in the files or folders given, with <name>_config.json, <name>_inputs.npz and
<name>_params.npz beside it: optimiser steps on one batch, with and without augmentation, the parameters they lead to,
their moving average, what was drawn, and the learning rate. Prints per quantity the largest absolute and the relative
difference beside what is tolerated, as pi05_progress.models.parity does for the model. What is tolerated of a run
comes from runs of our own whose arithmetic is rounded differently (docs/training_numerics.md). Exit status 1 if a
tolerance is exceeded, a file is damaged, or nothing was checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pi05_progress.parity.program import run_program

from .sets import KINDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program(KINDS, "python -m training.parity", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
