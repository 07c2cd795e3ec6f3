"""``python -m training.add_progress_labels`` as a script of the checkout."""

from __future__ import annotations

import sys

from training.add_progress_labels import main

if __name__ == "__main__":
    sys.exit(main())
