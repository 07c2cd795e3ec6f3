"""``python -m pi05_progress.models.parity``: the name by which the program in ``pi05_progress/parity`` is known."""

import sys

from ..parity.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
