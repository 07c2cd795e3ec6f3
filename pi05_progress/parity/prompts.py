"""Golden prompts: a JSON list of texts and states with what the tokenizer was asked and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..units.tokenizer import BOS, PromptTokenizer, discretize
from .checks import Check, is_list_of, read_json, same


class _CharacterEncoder:
    """What the prompts were recorded with: a character's code plus 10; it notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list] = []

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text."""
        self.calls.append([text, bool(add_bos)])
        return [BOS] * add_bos + [ord(character) + 10 for character in text]


def check_prompts(path: Path) -> Iterator[Check]:
    """The text of every prompt, its state's bins, its ids, padding, truncation and mask."""
    for i, case in enumerate(read_json(path)):
        name = f"prompt {i}"
        state = None if case["state"] is None else np.array(case["state"], case.get("state_dtype") or "float64")
        encoder = _CharacterEncoder()
        tokens, mask = PromptTokenizer(encoder, case["max_len"], bucketed=False)(case["prompt"], state)
        yield same(f"{name}: text", encoder.calls, [[text, bool(bos)] for text, bos in case["encode_calls"]])
        if case.get("bins") is not None:
            yield same(f"{name}: bins", discretize(state).tolist(), case["bins"])
        if "tokens_charstub" in case:
            yield same(f"{name}: ids", tokens.tolist(), case["tokens_charstub"])
        if "mask_true" in case:
            count = case["mask_true"]
            yield same(f"{name}: mask", mask.tolist(), [True] * count + [False] * (case["max_len"] - count))


KINDS = [("prompts", lambda file: is_list_of(file, {"prompt", "encode_calls", "max_len"}), check_prompts)]
