"""Prompts to token ids: the prompt's text as openpi writes it, and the tokenizers that encode it."""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ..errors import UserError
from ..models.config import BYTE_VOCABULARY, PALIGEMMA_VOCABULARY, WORD_VOCABULARY
from ..observation import ObservationError

BOS = 2
TokenizerName = Literal["bytes", "words", "paligemma"]
BYTE_OFFSET = 3  # after padding, end and beginning of text
NUMBER_OFFSET = 4  # of the number 0: -1, which states below their range have, comes before it
WORD_OFFSET = NUMBER_OFFSET + 256
STATE_EDGES = np.linspace(-1, 1, 257)[:-1]
PADDED_LENGTHS = (32, 64, 128, 200)  # a prompt is padded to the smallest that holds it; each is compiled once
log = logging.getLogger(__name__)


class PromptError(ObservationError):
    """A prompt cannot be given to the model."""


class Encoder(Protocol):
    """Text to ids below ``vocabulary``."""

    vocabulary: int

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text, the token for the beginning first if asked for."""


class ByteEncoder:
    """Every byte of UTF-8 is a token, after three special ones. Built in, for small models."""

    vocabulary = BYTE_VOCABULARY

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text."""
        return [BOS] * add_bos + [byte + BYTE_OFFSET for byte in text.encode()]


class WordEncoder:
    """Every number from -1 to 255 is a token, and every other word or sign; built in, for small models from scratch.

    A state's value is one token, where bytes spell it in up to three: less to compute, and nothing to learn before a
    value means something. Words share what is left of the vocabulary by their hash, in lower case, so there is no list
    of words to keep, and two words may have one token.
    """

    vocabulary = WORD_VOCABULARY

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text; space between words is left out."""
        return [BOS] * add_bos + [self._token(word) for word in re.findall(r"-1\b|\w+|[^\w ]", text.lower())]

    def _token(self, word: str) -> int:
        if word == "-1" or (word.isascii() and word.isdigit() and len(word) <= 3 and int(word) <= 255):
            return NUMBER_OFFSET + int(word)
        return WORD_OFFSET + zlib.crc32(word.encode()) % (self.vocabulary - WORD_OFFSET)


@dataclass(frozen=True)
class KnownTokenizer:
    """What tells one sentencepiece model from all others."""

    name: str  # for messages
    source: str  # where the file can be had
    sha256: str  # of the published file
    size: int  # number of pieces
    pieces: Mapping[str, int]  # some pieces and their ids


PALIGEMMA = KnownTokenizer(
    name="PaliGemma's tokenizer",
    source="gs://big_vision/paligemma_tokenizer.model (public, 4.3 MB; Hugging Face has it as tokenizer.model of "
    "google/paligemma-3b-pt-224, behind a licence)",
    sha256="8986bb4f423f07f8c7f70d0dbe3526fb2316056c17bae71b1ea975e77a168fc6",
    size=PALIGEMMA_VOCABULARY,
    pieces={"<pad>": 0, "<eos>": 1, "<bos>": BOS, "<unk>": 3, "\n": 108, "<loc0000>": 256_000, "<seg127>": 257_151},
)


class SentencePieceEncoder:
    """A sentencepiece tokenizer, by default PaliGemma's (``paligemma_tokenizer.model``).

    The published file is known by its hash. Another file is taken, with a warning, if its pieces are the same as far as
    they are known. A ``UserError``: the file or the library is missing, or it is another tokenizer, with what differs
    and where to get the right one.
    """

    def __init__(self, path: Path, known: KnownTokenizer = PALIGEMMA) -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise UserError(f"{known.name} needs the package sentencepiece: pip install it") from error
        remedy = f"{known.name}: copy it from {known.source} and give its path"
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file. {remedy}")
        data = Path(path).read_bytes()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a sentencepiece model ({error}). {remedy}") from error
        self.vocabulary = self._processor.vocab_size()
        if hashlib.sha256(data).hexdigest() == known.sha256:
            return
        if differences := self._differences(known):
            raise UserError(f"{path}: another tokenizer: {'; '.join(differences)}. {remedy}")
        log.warning("%s is not the published file of %s, but its pieces are the same as far as known", path, known.name)

    def _differences(self, known: KnownTokenizer) -> list[str]:
        sp = self._processor
        found = [] if self.vocabulary == known.size else [f"{self.vocabulary} pieces instead of {known.size}"]
        for piece, wanted in known.pieces.items():
            actual = sp.id_to_piece(wanted) if wanted < self.vocabulary else "none"
            if actual != piece:
                found.append(f"piece {wanted} is {actual!r} instead of {piece!r}")
        if not found and sp.bos_id() != BOS:
            found.append(f"a text begins with {sp.bos_id()} instead of {BOS}")
        return found

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text."""
        return self._processor.encode(text, add_bos=add_bos)


def make_encoder(name: TokenizerName, path: Path | None = None) -> Encoder:
    """The tokenizer of a name, ``path`` is PaliGemma's file; a ``UserError`` if it is unknown or cannot be loaded."""
    makers = {"bytes": ByteEncoder, "words": WordEncoder, "paligemma": lambda: SentencePieceEncoder(path or Path())}
    if name not in makers:
        raise UserError(f"tokenizer {name!r} is unknown; known: {', '.join(makers)}")
    return makers[name]()


def discretize(state: np.ndarray) -> np.ndarray:
    """Bins of normalised state values: -1 below -1, 0..255 inside, 255 above and for NaN."""
    return np.digitize(state, STATE_EDGES) - 1


def clean(prompt: str) -> str:
    """The prompt in one line, underscores as spaces."""
    return prompt.strip().replace("_", " ").replace("\n", " ")


class PromptTokenizer:
    """Prompts, with or without the state, to padded ids and their mask.

    Args:
        max_length: longest prompt, tokens.
        bucketed: pad to the smallest of a few lengths that holds the prompt, instead of always to the longest.
        cut: cut longer prompts at the end, with a warning, as openpi does; otherwise they are an error. What is cut off
            is the end of the state, so a robot should not act on it.
    """

    def __init__(self, encoder: Encoder, max_length: int, bucketed: bool = True, cut: bool = True) -> None:
        self._encoder, self._max, self._cut = encoder, max_length, cut
        # that prompts come in
        self.lengths = [n for n in PADDED_LENGTHS if n < max_length] + [max_length] if bucketed else [max_length]

    def __call__(self, prompt: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 (l,), 0 where padded, and the mask bool (l,).

        The state's normalised, unpadded values (s,) become part of the text; None leaves them out. A ``PromptError``:
        it is too long, and is not to be cut.
        """
        if state is None:
            ids = self._encoder.encode(clean(prompt), add_bos=True) + self._encoder.encode("\n")
        else:
            bins = " ".join(map(str, discretize(np.asarray(state))))
            ids = self._encoder.encode(f"Task: {clean(prompt)}, State: {bins};\nAction: ", add_bos=True)
        if len(ids) > self._max:
            if not self._cut:
                what = "the prompt" if state is None else "the prompt with the state"
                raise PromptError(f"{what} has {len(ids)} tokens, the model takes {self._max}: shorten {prompt[:60]!r}")
            log.warning("the prompt has %d tokens and is cut to %d: %r", len(ids), self._max, prompt[:60])
            ids = ids[: self._max]
        length = next(n for n in self.lengths if n >= len(ids))
        return np.pad(np.array(ids, np.int32), (0, length - len(ids))), np.arange(length) < len(ids)
