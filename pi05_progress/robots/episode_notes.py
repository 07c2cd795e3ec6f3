"""What is agreed about the events of an episode between those who record and those who convert.

The note of an episode whose last frame is not the task's end begins with one of the texts.
"""

from __future__ import annotations

ABORTED = "aborted: "  # the recorder was stopped, the disk was full, ...
CUT_OFF = "cut off: "  # the recording ends before the episode does
# EpisodeEvent.event: from here on the operator's actions are not to be imitated, and from here on they are again.
INVALID, VALID = 3, 4
