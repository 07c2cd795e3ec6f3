"""Prompts against openpi's recorded calls of its tokenizer."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from places import GOLDEN

from pi05_progress.errors import UserError
from pi05_progress.units.tokenizer import (
    PALIGEMMA,
    ByteEncoder,
    PromptTokenizer,
    SentencePieceEncoder,
    WordEncoder,
    discretize,
    make_encoder,
)

TRANSFORMS = GOLDEN / "transforms"
CASES = json.loads((TRANSFORMS / "tokenizer_cases.json").read_text())


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
    recorded = dict(np.load(TRANSFORMS / "transforms.npz"))
    np.testing.assert_array_equal(discretize(recorded["binning/x"]), recorded["binning/bin"])


def test_a_prompt_is_padded_to_the_smallest_length_that_holds_it():
    tokenize = PromptTokenizer(ByteEncoder(), 200)
    for text, length in (("a", 32), ("a" * 30, 32), ("a" * 31, 64), ("a" * 190, 200), ("a" * 500, 200)):
        tokens, mask = tokenize(text)
        assert (len(tokens), len(mask)) == (length, length)
        assert not tokens[~mask].any()


def test_minus_one_really_appears_in_the_text_and_nan_is_the_last_bin():
    encoder = Recorder()
    values = np.array([-1.001, -1.0, 0.0, 1 - 2 / 256, 1.0, 7.0, np.nan])
    PromptTokenizer(encoder, 200)("stack", values)
    assert encoder.calls == [["Task: stack, State: -1 0 128 255 255 255 255;\nAction: ", True]]


def test_without_the_state_the_newline_is_a_text_of_its_own():
    encoder = Recorder()
    PromptTokenizer(encoder, 200)(" pick_up\nit ")
    assert encoder.calls == [["pick up it", True], ["\n", False]]


# --- words ---


def test_every_value_of_the_state_is_one_token_of_its_own():
    encode = WordEncoder().encode
    ids = [encode(str(number)) for number in range(-1, 256)]
    assert all(len(tokens) == 1 for tokens in ids)
    assert len({tokens[0] for tokens in ids}) == 257
    prompt = "Task: stack, State: -1 0 128 255;\nAction: "
    assert [tokens for tokens in map(encode, ("-1", "0", "128", "255"))] == [[t] for t in encode(prompt, True)[7:11]]


def test_words_are_told_apart_from_numbers_and_signs_and_not_by_case():
    encode = WordEncoder().encode
    numbers = {encode(str(number))[0] for number in range(-1, 256)}
    words = ["stack", "the", "red", "cube", ",", ";", "256", "1000", "007x", "\n", "würfel"]
    ids = [encode(word) for word in words]
    assert all(len(tokens) == 1 and tokens[0] not in numbers for tokens in ids)
    assert encode("Stack THE red   cube") == encode("stack the red cube") != encode("stack the cube red")
    assert all(2 < token < WordEncoder.vocabulary for tokens in ids for token in tokens)


def test_words_have_the_same_tokens_in_every_process():
    assert WordEncoder().encode("stack the cube", add_bos=True) == [2, 530, 306, 736]


def test_a_tokenizer_is_made_by_its_name():
    assert isinstance(make_encoder("bytes"), ByteEncoder)
    assert isinstance(make_encoder("words"), WordEncoder)
    with pytest.raises(UserError, match="tokenizer 'letters' is unknown; known: bytes, words, paligemma"):
        make_encoder("letters")


# --- sentencepiece ---

TEXT = ["pick up the red cube and stack it on the green one", "open the drawer", "fold the towel"] * 20


def train(path, **options):
    """A small sentencepiece model; "\n" is piece 108, as in PaliGemma's, unless told otherwise."""
    sentencepiece = pytest.importorskip("sentencepiece")
    given = {
        "vocab_size": 140,
        "model_type": "bpe",
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "user_defined_symbols": [f"<unused{i}>" for i in range(104)] + ["\n"],
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "minloglevel": 2,
    } | options
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=file, **given)
    return path


SMALL = dataclasses.replace(
    PALIGEMMA, name="the small tokenizer", sha256="", size=140,
    pieces={k: v for k, v in PALIGEMMA.pieces.items() if v < 140},
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sentencepiece") / "small.model")


def test_a_sentencepiece_model_encodes_prompts(model, caplog):
    encoder = SentencePieceEncoder(model, SMALL)
    assert "not the published file of the small tokenizer" in caplog.text
    assert encoder.vocabulary == 140
    assert encoder.encode("\n") == [108]
    assert encoder.encode("open the drawer", add_bos=True) == [2, *encoder.encode("open the drawer")]
    tokens, mask = PromptTokenizer(encoder, 40)("open the drawer")
    assert tokens[0] == 2
    assert tokens[mask][-1] == 108
    assert not tokens[~mask].any()


def test_the_published_file_is_known_by_its_hash(model, caplog):
    known = dataclasses.replace(SMALL, sha256=hashlib.sha256(model.read_bytes()).hexdigest())
    SentencePieceEncoder(model, known)
    assert not caplog.text


def test_another_tokenizer_is_refused_with_what_differs_and_where_to_get_the_right_one(model, tmp_path):
    with pytest.raises(UserError) as error:
        SentencePieceEncoder(model)
    text = str(error.value)
    assert str(model) in text
    assert "140 pieces instead of 257152" in text
    assert "piece 256000 is 'none' instead of '<loc0000>'" in text
    assert "gs://big_vision/paligemma_tokenizer.model" in text
    moved = train(tmp_path / "moved.model", user_defined_symbols=["\n"] + [f"<unused{i}>" for i in range(104)])
    with pytest.raises(UserError, match=r"piece 108 is .* instead of '\\n'"):  # the right number of pieces
        SentencePieceEncoder(moved, SMALL)
    swapped = train(tmp_path / "swapped.model", eos_id=2, bos_id=1)
    with pytest.raises(UserError, match="piece 1 is '<bos>' instead of '<eos>'"):
        SentencePieceEncoder(swapped, SMALL)


def test_a_missing_or_damaged_tokenizer_says_where_to_get_it(model, tmp_path):
    with pytest.raises(UserError, match=r"no such file\. .*gs://big_vision/paligemma_tokenizer\.model"):
        SentencePieceEncoder(tmp_path / "none.model")
    for data in (b"not a model", b"", model.read_bytes()[:100]):
        (tmp_path / "bad.model").write_bytes(data)
        with pytest.raises(UserError, match=r"bad\.model: .*gs://big_vision"):
            SentencePieceEncoder(tmp_path / "bad.model")
