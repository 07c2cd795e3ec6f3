"""What is agreed about the events of an episode between those who record and those who convert.

The note of an episode whose last frame is not the task's end begins with one of the texts.
"""

from __future__ import annotations

import re

ABORTED = "aborted: "  # the recorder was stopped, the disk was full, ...
CUT_OFF = "cut off: "  # the recording ends before the episode does
# EpisodeEvent.event: from here on the operator's actions are not to be imitated, and from here on they are again.
INVALID, VALID = 3, 4
# In an episode of a policy: from here on the operator commands, and from here on the policy again.
TAKEN_OVER, HANDED_BACK = 5, 6
UNDONE = "undone "  # before a milestone's label: from here on it does not hold any more

# The note of an episode that is a goal of RunTask. The operator may judge it later, by a further STOP of the episode.
GOAL = re.compile(r"(?P<reason>[A-Z_]+) by (?P<model>\S*) with (?P<interventions>\d+) interventions: (?P<text>(?s:.*))")
JUDGED = "judged: "


def goal_note(reason: str, model: str, interventions: int, text: str) -> str:
    """What ``GOAL`` reads."""
    return f"{reason} by {''.join(model.split())} with {interventions} interventions: {text}"
