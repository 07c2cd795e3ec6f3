"""Prompts against openpi's recorded calls of its tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest

from pi05_progress.tokenizer import ByteEncoder, PromptTokenizer, SentencePieceEncoder, TokenizerError, discretize

GOLDEN = Path(__file__).parent / "data/golden/transforms"
CASES = json.loads((GOLDEN / "tokenizer_cases.json").read_text())


class Recorder:
    """The stub of the recording: a character is its code plus 10, 2 begins."""

    def __init__(self):
        self.calls = []

    def encode(self, text, add_bos=False):
        self.calls.append([text, add_bos])
        return [2] * add_bos + [ord(c) + 10 for c in text]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["prompt"])[:24])
def test_prompts_as_openpi_writes_them(case):
    encoder = Recorder()
    state = None if case["state"] is None else np.array(case["state"], case.get("state_dtype", "float64"))
    tokens, mask = PromptTokenizer(encoder, case["max_len"], bucketed=False)(case["prompt"], state)
    calls = [[text, bool(bos)] for text, bos in case["encode_calls"]]
    assert encoder.calls == calls
    recorded = case["tokens_charstub"]
    np.testing.assert_array_equal(tokens, recorded)
    assert mask.sum() == min(sum(len(text) + bos for text, bos in calls), case["max_len"])


def test_state_bins_as_openpi():
    recorded = dict(np.load(GOLDEN / "transforms.npz"))
    np.testing.assert_array_equal(discretize(recorded["binning/x"]), recorded["binning/bin"])


def test_a_prompt_is_padded_to_the_smallest_length_that_holds_it():
    tokenize = PromptTokenizer(ByteEncoder(), 200)
    for text, length in (("a", 32), ("a" * 30, 32), ("a" * 31, 64), ("a" * 190, 200), ("a" * 500, 200)):
        tokens, mask = tokenize(text)
        assert (len(tokens), len(mask)) == (length, length)
        assert not tokens[~mask].any()


def test_a_missing_tokenizer_says_where_to_get_it(tmp_path):
    pytest.importorskip("sentencepiece")
    with pytest.raises(TokenizerError, match=r"gs://big_vision/paligemma_tokenizer\.model"):
        SentencePieceEncoder(tmp_path / "none.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        SentencePieceEncoder(tmp_path / "bad.model")
