"""Where the files of ``config/`` are: in the checkout, or in the installed package's share folder."""

from __future__ import annotations

from pathlib import Path


def config_file(name: str) -> Path:
    """Path of a file of ``config/``: in the checkout, else in the installed package's share folder."""
    checkout = Path(__file__).resolve().parents[1] / "config" / name
    if checkout.exists():
        return checkout
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("pi05_progress")) / "config" / name
