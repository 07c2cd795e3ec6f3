"""``python -m pi05_progress.serving``: see ``command_line.py``."""

import sys

from .command_line import main

if __name__ == "__main__":
    sys.exit(main())
