"""Samples under another instruction than their own, and such as teach the head what is no progress. Off by default.

*Wrong instruction*: the picture of one task under the instruction of another. Nothing of that other task is done, so
its progress is 0. Needs tasks that exclude each other: two wordings of one task would be told apart where nothing is
different. Instructions of the same words in another order are never taken for each other's wrong one, unless a file of
instructions says that one is to be refused in place of the other; nor are other wordings that such a file knows.

*Other wording*: of a file of instructions (``training.datasets.instructions``), so that the model reads what is asked
for instead of knowing a sentence by heart. Nothing else changes.

*Reversed clip*: a successful episode as if it ran backwards: at time ``t`` it shows the frame that is ``t`` before the
end, and progress falls. Pi0.5 reads the pictures of a single moment, in which no direction shows. Any label but that
frame's own would ask for two answers to one picture. So the label is the frame's own, and what it differs in from the
clip running forwards is that its actions lead away from what is seen next, and do not count. It gives the head more
samples than the actions have, and nothing to learn that contradicts the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pi05_progress.units.tokenizer import clean

from ..datasets.instructions import Instructions, Variants, same_words
from ..datasets.progress_meta import ProgressMeta
from .config import DataConfig, DataConfigError
from .rows import Rows

NO_VARIANTS = Variants((), ())
REWORDED = 0.5  # of samples that could be said otherwise
REFUSED = 0.75  # of wrong instructions: what the file of instructions says, the others are of the data's other tasks


@dataclass(frozen=True)
class Change:
    """What a draw becomes. ``row`` is where it is taken from, ``prompt`` another instruction or None."""

    row: int
    prompt: str | None = None
    is_wrong: bool = False  # the prompt asks for something else
    is_imitated: bool = True


@dataclass(frozen=True)
class Negatives:
    """Decides which draws become negatives, by the seed and the number of the draw alone."""

    wrong: float  # share of draws under a wrong instruction
    reversed: float  # share of the labelled draws of successful episodes that are taken from the reversed clip
    seed: int  # of the decisions
    prompts: tuple[str, ...]  # every instruction of the run, each once
    successful: tuple[tuple[bool, ...], ...]  # per data set and episode, whether it was
    variants: Mapping[str, Variants] = field(default_factory=dict)  # of each prompt, if there is a file of instructions

    def change(self, number: int, data_set: int, row: int, rows: Rows, prompt: str) -> Change:
        """What draw ``number`` becomes."""
        if not self.wrong and not self.reversed and not self.variants:
            return Change(row)
        rng = np.random.default_rng([self.seed, number])
        paraphrases, refused = self.variants.get(prompt, NO_VARIANTS)
        if rng.random() < self.wrong:
            others = [other for other in self.prompts if not same_words(other, prompt) and other not in paraphrases]
            if refused and (not others or rng.random() < REFUSED):
                others = refused
            if not others:
                return Change(row)
            return Change(row, others[rng.integers(len(others))], is_wrong=True, is_imitated=False)
        episode = rows.episode(row)
        counts = rows.valid is not None and rows.valid[row] and self.successful[data_set][episode]
        if counts and rng.random() < self.reversed:
            return Change(int(rows.starts[episode] + rows.starts[episode + 1] - 1 - row), is_imitated=False)
        if paraphrases and rng.random() < REWORDED:
            return Change(row, paraphrases[rng.integers(len(paraphrases))])
        return Change(row)


def negatives(
    config: DataConfig, seed: int, tasks: Sequence[Sequence[str]], rows: Sequence[Rows], metas: Sequence[ProgressMeta]
) -> Negatives:
    """The negatives and other wordings that a configuration asks for.

    Raises:
        DataConfigError: a share is outside [0, 1), or there is nothing to make them of.
        UserError: the file of instructions is wrong, or lacks one of the data's.
    """
    for name in ("wrong_instruction", "reversed_clip"):
        share = getattr(config, name)
        if not 0 <= share < 1:
            raise DataConfigError(f"{name} is {share}; expected at least 0 and less than 1")
        if share and all(of.progress is None for of in rows):
            raise DataConfigError(
                f"{name} is {share}, but no data set has labels: negatives teach the progress head; label the data "
                "first: python -m training.add_progress_labels"
            )
    used = [names[index] for names, of in zip(tasks, rows, strict=True) for index in np.unique(of.task)]
    prompts = tuple({clean(prompt): prompt for prompt in used}.values())
    instructions = None if config.instructions is None else Instructions.load(config.instructions)
    variants = {prompt: instructions.variants(prompt, judging=False) for prompt in set(used)} if instructions else {}
    if config.wrong_instruction and not variants and all(same_words(prompt, prompts[0]) for prompt in prompts):
        raise DataConfigError(
            f"wrong_instruction is {config.wrong_instruction}, but all episodes have one instruction, {prompts[0]!r}, "
            "or its words in another order; add a data set of another task"
        )
    successful = tuple(
        tuple(not meta.episode(index).unsuccessful for index in range(len(of.starts) - 1))
        for of, meta in zip(rows, metas, strict=True)
    )
    return Negatives(config.wrong_instruction, config.reversed_clip, seed, prompts, successful, variants)
