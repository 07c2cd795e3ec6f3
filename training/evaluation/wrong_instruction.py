"""Which instruction is the wrong one: an episode is shown with it, and its progress should not come to 1."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .predictions import EvaluationError

FOREIGN = "water the plants"  # where no other task is known


def wrong_instruction(task: str, known: Iterable[str], wanted: str = "") -> str:
    """An instruction for something else.

    Another order of the same words ("the red and then the blue block" and the other way round) may ask for what looks
    the same in the end, so it is not taken for another task.

    Args:
        task: the right instruction.
        known: instructions the model was trained on, and those of the data set.
        wanted: take this one; empty takes the next task of other words in alphabetical order, or a foreign one if
            there is none.

    Raises:
        EvaluationError: the wanted one is the right one.
    """
    if wanted:
        if _words(wanted) == _words(task):
            raise EvaluationError(
                f"--wrong {wanted!r}: is the right instruction of a task; give one for something else"
            )
        return wanted
    others = sorted({other for other in known if sorted(_words(other)) != sorted(_words(task))})
    later = [other for other in others if other > task]
    return (later or others or [FOREIGN])[0]


def _words(instruction: str) -> list[str]:
    return re.findall(r"\w+", instruction.lower())
