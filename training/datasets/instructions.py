"""Which instructions ask for the same."""

from __future__ import annotations

import re


def same_words(one: str, other: str) -> bool:
    """Whether two instructions are of the same words, in any order.

    "the red and then the blue block" and the other way round may look the same in the end, and mostly on the way, so
    neither is taken for a wrong instruction of the other.
    """
    return sorted(words(one)) == sorted(words(other))


def words(instruction: str) -> list[str]:
    """Its words in their order, in lower case."""
    return re.findall(r"\w+", instruction.lower())
