"""Which instructions ask for the same, and which for something else.

A model that saw a task's pictures with that task's own words only may never read them: progress then rises for "take
the tower apart", too. A file (``config/instructions.yaml``) gives other wordings and instructions that are to be
refused, by which a head is taught and judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pi05_progress.errors import UserError
from pi05_progress.files.validation import problems

SAID = "instruction"  # the word that stands for the whole instruction in rules
KEPT = 3  # each third wording judges only


def same_words(one: str, other: str) -> bool:
    """Whether two instructions are of the same words, in any order.

    "the red and then the blue block" and the other way round may look the same in the end, and mostly on the way, so
    neither is taken for a wrong instruction of the other.
    """
    return sorted(words(one)) == sorted(words(other))


def words(instruction: str) -> list[str]:
    """Its words in their order, in lower case."""
    return re.findall(r"\w+", instruction.lower())


class Variants(NamedTuple):
    """What else could have been said."""

    paraphrases: tuple[str, ...]  # that ask for the same
    refused: tuple[str, ...]  # that ask for something else


class Wordings(BaseModel):
    """Of one task. Braces stand for words: what an instruction of ``says`` has there, the other lists have, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    says: tuple[str, ...]
    paraphrases: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def match(self, instruction: str) -> dict[str, str] | None:
        """The words in place of braces if this is one of the task's instructions."""
        for said in self.says:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(said))
            if found := re.fullmatch(pattern, instruction, re.IGNORECASE):
                return found.groupdict()
        return None


class Instructions(BaseModel):
    """The file: wordings of tasks, and rules that make more of any instruction."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tasks: tuple[Wordings, ...]
    rules: Wordings = Wordings(says=("{instruction}",))

    @classmethod
    def load(cls, path: Path) -> Instructions:
        """Read a file; a ``UserError`` says what is wrong with it."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        except ValidationError as error:
            raise UserError(f"{path}: {problems(error)}") from error

    def variants(self, instruction: str, judging: bool) -> Variants:
        """Other wordings of an instruction, and what is to be refused in its place.

        Args:
            judging: give those that judge a head and teach it nothing, else those that teach it.

        Raises:
            UserError: no task of the file says so, or a wording has braces that ``says`` lacks.
        """
        found = [(of, filled) for of in self.tasks if (filled := of.match(instruction)) is not None]
        if not found:
            raise UserError(f"instruction {instruction!r}: no task of the file of instructions says it; add it there")
        of, filled = found[0]
        lists = []
        for own, more in ((of.paraphrases, self.rules.paraphrases), (of.refused, self.rules.refused)):
            try:
                wordings = [
                    *(one.format(**filled) for one in own),
                    *(one.format(**{SAID: instruction}) for one in more),
                ]
            except (KeyError, IndexError, ValueError) as error:
                raise UserError(f"wordings of {instruction!r}: braces around {error} mean nothing here") from error
            lists.append(_part(wordings, judging))
        if not judging:
            lists[0] += [own for said in of.says if (own := said.format(**filled)) != instruction]
        return Variants(*map(tuple, lists))


def _part(wordings: Sequence[str], judging: bool) -> list[str]:
    return [one for number, one in enumerate(wordings) if (number % KEPT == KEPT - 1) == judging]
