"""Serves a checkpoint: the same as ``python -m pi05_progress.serving``, where users of openpi's scripts look for it.

python -m training.serve_policy --checkpoint DIR --port 8000
"""

import sys

from pi05_progress.serve_policy import main

if __name__ == "__main__":
    sys.exit(main())
