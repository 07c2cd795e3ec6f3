"""Compares this model with recorded numbers of openpi's.

    python -m pi05_progress.models.parity test/data/golden

Reads every golden set in the files or folders given, rebuilds the model from the set's own configuration, and prints
per quantity the largest absolute and relative difference beside what is tolerated. Files that belong to no set known
here, and quantities that are not this package's, are named as not checked. Exit status 1 if a tolerance is exceeded, a
file is damaged, or nothing was checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import model, pytorch, transforms, wire
from .program import run_program

KINDS = [*model.KINDS, *pytorch.KINDS, *transforms.KINDS, *wire.KINDS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program(KINDS, "python -m pi05_progress.models.parity", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
