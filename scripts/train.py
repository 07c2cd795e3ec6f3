"""``python -m training.train`` as a script of the checkout, where openpi has its own."""

from __future__ import annotations

import sys

from training.train import main

if __name__ == "__main__":
    sys.exit(main())
