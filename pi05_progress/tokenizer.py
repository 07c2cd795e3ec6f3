"""Prompts to token ids: the prompt's text as openpi writes it, and the tokenizers that encode it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np

from .models.config import BYTE_VOCABULARY, PALIGEMMA_VOCABULARY

BOS = 2
BYTE_OFFSET = 3  # after padding, end and beginning of text
STATE_EDGES = np.linspace(-1, 1, 257)[:-1]
PADDED_LENGTHS = (32, 64, 128, 200)  # a prompt is padded to the smallest that holds it; each is compiled once
log = logging.getLogger(__name__)


class TokenizerError(ValueError):
    """A tokenizer cannot be loaded or does not fit the model."""


class Encoder(Protocol):
    """Text to ids."""

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text, the token for the beginning first if asked for."""


class ByteEncoder:
    """Every byte of UTF-8 is a token, after three special ones. Built in, for small models."""

    vocabulary = BYTE_VOCABULARY

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text."""
        return [BOS] * add_bos + [byte + BYTE_OFFSET for byte in text.encode()]


class SentencePieceEncoder:
    """PaliGemma's tokenizer.

    Args:
        path: ``paligemma_tokenizer.model``.

    Raises:
        TokenizerError: the file or the library is missing, or it is another tokenizer.
    """

    vocabulary = PALIGEMMA_VOCABULARY

    def __init__(self, path: Path) -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise TokenizerError("PaliGemma's tokenizer needs the package sentencepiece: pip install it") from error
        if not Path(path).is_file():
            raise TokenizerError(
                f"{path}: no such file. PaliGemma's tokenizer (paligemma_tokenizer.model, 4.3 MB) is public: copy it "
                "from gs://big_vision/paligemma_tokenizer.model"
            )
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{path}: not a sentencepiece model: {error}") from error
        pieces = self._processor.vocab_size()
        if pieces not in (256_000, 257_152):
            raise TokenizerError(f"{path}: {pieces} pieces, PaliGemma's tokenizer has 256000 or 257152")

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text."""
        return self._processor.encode(text, add_bos=add_bos)


def discretize(state: np.ndarray) -> np.ndarray:
    """Bins of normalised state values: -1 below -1, 0..255 inside, 255 above, 256 for NaN."""
    return np.digitize(state, STATE_EDGES) - 1


def clean(prompt: str) -> str:
    """The prompt in one line, underscores as spaces."""
    return prompt.strip().replace("_", " ").replace("\n", " ")


class PromptTokenizer:
    """Prompts, with or without the state, to padded ids and their mask.

    Args:
        encoder: text to ids.
        max_length: longest prompt, tokens; longer ones are cut at the end, with a warning.
        bucketed: pad to the smallest of a few lengths that holds the prompt, instead of always to the longest.
    """

    def __init__(self, encoder: Encoder, max_length: int, bucketed: bool = True) -> None:
        self._encoder, self._max = encoder, max_length
        self._lengths = [n for n in PADDED_LENGTHS if n < max_length] + [max_length] if bucketed else [max_length]

    @property
    def lengths(self) -> list[int]:
        """The lengths prompts come in."""
        return list(self._lengths)

    def __call__(self, prompt: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 (l,), 0 where padded, and the mask bool (l,).

        Args:
            prompt: the instruction.
            state: normalised, unpadded values (s,) that become part of the text; None leaves them out.
        """
        if state is None:
            ids = self._encoder.encode(clean(prompt), add_bos=True) + self._encoder.encode("\n")
        else:
            bins = " ".join(map(str, discretize(np.asarray(state))))
            ids = self._encoder.encode(f"Task: {clean(prompt)}, State: {bins};\nAction: ", add_bos=True)
        if len(ids) > self._max:
            log.warning("the prompt has %d tokens and is cut to %d: %r", len(ids), self._max, prompt[:60])
            ids = ids[: self._max]
        length = next(n for n in self._lengths if n >= len(ids))
        tokens = np.zeros(length, np.int32)
        tokens[: len(ids)] = ids
        return tokens, np.arange(length) < len(ids)
