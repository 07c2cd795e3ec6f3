"""Beginnings of the note of an episode whose last frame is not the task's end: the recorder and the converter write
them, the converter and whoever reads a data set look for them."""

from __future__ import annotations

ABORTED = "aborted: "  # the recorder was stopped, the disk was full, ...
CUT_OFF = "cut off: "  # the recording ends before the episode does
