"""The middleware settings images need. Must be applied before ``rclpy.init``."""

from __future__ import annotations

import os

from pi05_progress.files.config_files import config_file

VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def use_image_transport() -> str:
    """Point FastDDS to ``config/fastdds.xml`` unless the user has chosen a profile; returns the file in use."""
    return os.environ.setdefault(VARIABLE, str(config_file("fastdds.xml")))
