"""Which instruction is the wrong one: an episode is shown with it, and its progress should not come to 1."""

from __future__ import annotations

from collections.abc import Iterable

from pi05_progress.errors import UserError

from ..datasets.instructions import same_words, words

FOREIGN = "water the plants"  # where no other task is known


def wrong_instruction(task: str, known: Iterable[str], wanted: str = "") -> str:
    """An instruction for something else.

    Another order of the same words is not taken for another task (see ``same_words``).

    Args:
        known: instructions the model was trained on, and those of the data set.
        wanted: take this one; empty takes the next task of other words in alphabetical order, or a foreign one if
            there is none.

    Raises:
        UserError: the wanted one is the right one.
    """
    if wanted:
        if words(wanted) == words(task):
            raise UserError(f"--wrong {wanted!r}: is the right instruction of a task; give one for something else")
        return wanted
    others = sorted({other for other in known if not same_words(other, task)})
    later = [other for other in others if other > task]
    return (later or others or [FOREIGN])[0]
