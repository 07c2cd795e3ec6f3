"""``python -m pi05_progress.serving``: see ``pi05_progress/serve_policy.py``."""

import sys

from ..serve_policy import main

if __name__ == "__main__":
    sys.exit(main())
