"""How many files this process may have open."""

from __future__ import annotations

import resource

MOST_FILES = 65536


def raise_file_limit() -> None:
    """Let this process, and those it starts, open as many files as they may, up to ``MOST_FILES``."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
