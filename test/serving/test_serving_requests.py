"""Requests and replies of the Teleavatar: what is read, what is refused and how it is named, what is logged."""

import logging

import numpy as np
import pytest
from serving_helpers import PROFILE, StubPolicy, frame, request, small_policy, stub

from pi05_progress.observation import PolicyOutput
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.teleavatar import make_reply, make_request, read_reply, read_request
from pi05_progress.serving.wire import AnswerError, RequestError, pack, unpack
from pi05_progress.units.transforms import resize_with_pad

PICTURE = np.zeros((28, 28, 3), np.uint8)
NAN_PICTURE = np.zeros((28, 28, 3), np.float32)
NAN_PICTURE[3, 4, 1] = np.nan
NAN_STATE = np.zeros(48, np.float32)
NAN_STATE[7] = np.inf

WRONG = {
    "nothing": ({}, "observation/state, observation/images/.*: missing; the request has nothing"),
    "no state": (request(state=None), r"^observation/state: missing; the request has observation/images/head_camera, "),
    "misspelt camera": (
        request(left_color=None, **{"observation/images/left_colour": PICTURE}),
        r"^observation/images/left_color: missing; the request has .*left_colour.*; teleavatar needs them all",
    ),
    "long state": (request(state=np.zeros(14)), r"observation/state is float64\[14\]; expected 48 or 62 numbers"),
    "batched state": (request(state=np.zeros((1, 48))), r"observation/state is float64\[1, 48\]"),
    "state of text": (request(state=["a"] * 48), r"observation/state is a list of str; expected 48 or 62 numbers"),
    "ragged state": (request(state=[[1.0], [1.0, 2.0]]), r"observation/state is a list of list; expected 48 or 62"),
    "state with a long text": (request(state=["x" * 10**6] + ["y"] * 9000), r"observation/state is a list of str"),
    "array of texts": (
        request(state=np.array(["a"] * 48)),
        r"observation/state is <U1\[48\]; expected 48 or 62 numbers",
    ),
    "state is nil": (request() | {"observation/state": None}, r"observation/state is nil; expected 48 or 62 numbers"),
    "state is a number": (request(state=1.5), r"observation/state is float; expected 48 or 62 numbers"),
    "state beyond 64 bits": (request(state=[2**70] * 48), r"observation/state is object\[48\]"),
    "infinite state": (request(state=NAN_STATE), r"observation/state\[7\] is inf; expected finite numbers"),
    "grey picture": (
        request(head_camera=PICTURE[..., 0]),
        r"uint8\[28, 28\]; expected uint8 \(h, w, 3\)",
    ),
    "four channels": (request(head_camera=np.zeros((28, 28, 4), np.uint8)), r"head_camera is uint8\[28, 28, 4\]"),
    "batched picture": (request(left_color=PICTURE[None]), r"left_color is uint8\[1, 28, 28, 3\]"),
    "wide integers": (request(head_camera=PICTURE.astype(np.uint16)), r"head_camera is uint16\[28, 28, 3\]"),
    "signed picture": (request(head_camera=PICTURE.astype(np.int64)), r"head_camera is int64"),
    "NaN picture": (request(head_camera=NAN_PICTURE), r"head_camera\[3, 4, 1\] is nan; expected finite"),
    "bright floats": (
        request(head_camera=PICTURE + np.float32(200)),
        r"has values from 200 to 200; expected",
    ),
    "JPEG": (request(head_camera=b"\xff\xd8"), r"observation/images/head_camera is 2 bytes; expected uint8"),
    "thin picture": (
        request(head_camera=np.zeros((1, 9000, 3), np.uint8)),
        r"uint8\[1, 9000, 3\]; expected sides",
    ),
    "empty picture": (request(head_camera=np.zeros((0, 0, 3), np.uint8)), r"uint8\[0, 0, 3\]; expected sides of 8"),
    "no prompt": (request(prompt=None), "prompt is missing or empty; give an instruction"),
    "blank prompt": (request(prompt=" \n"), "prompt is missing or empty"),
    "prompt of bytes": (request(prompt=b"stack"), "prompt is 5 bytes; expected text"),
    "long prompt": (request(prompt="x" * 20_000), "prompt has 20000 characters"),
    "noise of a share": (
        request() | {"noise_seed": 0.5},
        "noise_seed is 0.5; expected a whole number from 0 to 4294967295",
    ),
    "noise below zeros": (request() | {"noise_seed": -2}, "noise_seed is -2; .*, or -1 for noise of zeros"),
    "noise beyond": (request() | {"noise_seed": 2**32}, "noise_seed is 4294967296; expected a whole number"),
    "noise of text": (request() | {"noise_seed": "zero"}, "noise_seed is 'zero'; expected a whole number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_with_key_form_and_expectation(name):
    given, message = WRONG[name]
    with pytest.raises(RequestError, match=message) as refusal:
        stub().prepare(given)
    assert "\n" not in str(refusal.value)


def test_a_request_comes_over_the_wire_as_it_was_made():
    original = frame(3, size=(30, 40))
    read, prompt = read_request(unpack(pack(make_request(original, "stack", None))), PROFILE)
    assert prompt == "stack"
    np.testing.assert_array_equal(read.state, original.state)
    for key, picture in original.images.items():
        np.testing.assert_array_equal(read.images[key], picture)


def test_pictures_are_made_small_before_they_are_sent_as_the_policy_would():
    original = frame(3, size=(480, 848))
    made = make_request(original, "stack", (224, 224))
    for key, picture in original.images.items():
        np.testing.assert_array_equal(made[f"observation/images/{key}"], resize_with_pad(picture, 224, 224))
    assert len(pack(made)) < 3 * 224 * 224 * 3 + 2000


def test_floats_and_channels_first_are_read_as_openpis_policies_read_them():
    given = request(seed=5)
    key = "observation/images/head_camera"
    expected = read_request(given, PROFILE)[0].images["head_camera"]
    floats = (given[key].astype(np.float32) / 255 + 1e-4).clip(0, 1).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_request(given | {key: floats}, PROFILE)[0].images["head_camera"], expected)


def test_62_numbers_lists_and_unknown_keys_are_taken():
    read, _ = read_request(request(state=[0.5] * 62) | {"actions": PICTURE, 7: 1}, PROFILE)
    assert read.state.shape == (62,)


def test_requests_without_an_instruction_take_the_servers():
    responder = stub(default_prompt="no progress")
    [reply] = responder.answer([responder.prepare(request(prompt=None))])
    assert reply["progress"] is None
    assert stub(default_prompt="x").prepare(request("mine"))[1] == "mine"


def test_a_request_may_name_the_noise_and_else_gets_the_servers_next():
    responder = PolicyResponder(small_policy(), PROFILE)

    def actions(**more):
        given = unpack(pack(make_request(frame(1, size=(28, 28)), "stack", None, **more)))
        return responder.answer([responder.prepare(given)])[0]["actions"]

    local = small_policy()
    first, second = (local.infer(frame(1, size=(28, 28)), "stack").actions for _ in range(2))
    np.testing.assert_allclose(actions(), first, atol=1e-5)
    np.testing.assert_allclose(actions(noise_seed=0), first, atol=1e-5)
    zeros = actions(noise_seed=-1)
    np.testing.assert_array_equal(zeros, actions(noise_seed=-1))
    assert np.abs(zeros - first).max() > 1e-3
    np.testing.assert_allclose(actions(), second, atol=1e-5)  # what was named has used up nothing


def test_a_reply_tells_the_output_whole():
    output = PolicyOutput(
        np.ones((5, 16), np.float32), 0.0, (0.0, 0.25), np.array([1.0]), {"model": 2.0, "transforms": 1.0}, 0.8
    )
    back = read_reply(unpack(pack(make_reply(output))), 0.8)
    np.testing.assert_array_equal(back.actions, output.actions)
    assert (back.progress, back.progress_interval, back.confidence_level) == (0.0, (0.0, 0.25), 0.8)
    assert back.timing == {"model": 2.0, "transforms": 1.0}
    without = read_reply(unpack(pack(make_reply(PolicyOutput(output.actions, None)))), 0.9)
    assert (without.progress, without.progress_interval) == (None, None)


@pytest.mark.parametrize("reply", [1, {}, {"actions": [1.0]}, {"actions": PICTURE, "progress": "much"}])
def test_what_is_no_reply_is_refused(reply):
    with pytest.raises(RequestError, match="the server's reply"):
        read_reply(reply, 0.9)


def answer(responder, prompt):
    return responder.answer([responder.prepare(request(prompt))])[0]


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("no progress", "its model has no progress head"),
        ("nan progress", "the policy's progress is not finite (progress nan, interval (0.1, 0.2))"),
    ],
)
def test_without_progress_the_reply_says_nil_the_log_says_why_once_and_actions_flow(caplog, prompt, why):
    caplog.set_level(logging.INFO)
    responder = stub()
    replies = [answer(responder, prompt) for _ in range(3)]
    assert [(r["progress"], r["progress_lower"], r["progress_upper"]) for r in replies] == [(None, None, None)] * 3
    assert all(np.isfinite(r["actions"]).all() for r in replies)
    assert len([m for m in caplog.messages if why in m]) == 1
    assert not any("Task progress" in m for m in caplog.messages)


def test_each_reason_why_there_is_no_progress_is_told_once(caplog):
    caplog.set_level(logging.INFO)
    responder = stub()
    for prompt in ("no progress", "nan progress", "no progress", "nan progress"):
        assert answer(responder, prompt)["progress"] is None
    responder.answer([responder.prepare(request(state=np.full(48, 1.5)))])
    said = [message for message in caplog.messages if "(said once)" in message]
    assert len(said) == 3
    assert ["no progress head" in said[0], "progress nan" in said[1], "progress 1.5" in said[2]] == [True] * 3


def test_actions_that_are_not_finite_are_not_passed_on():
    result = answer(stub(), "nan actions")
    assert isinstance(result, AnswerError)
    assert str(result) == "the policy's actions are not finite"


def test_an_untrained_model_is_told_when_the_server_starts(caplog):
    policy = StubPolicy()
    policy.model_id = "untrained"
    PolicyResponder(policy, PROFILE).warm_up()
    assert "the model is untrained" in caplog.text


def test_the_model_answers_requests_together_as_it_answers_frames_alone_in_openpis_order_of_noise():
    alone, responder = small_policy(), PolicyResponder(small_policy(max_batch=2), PROFILE)
    assert responder.metadata["image_size"] == [28, 28]
    frames = [frame(seed) for seed in range(3)]
    expected = [alone.infer(f, "stack") for f in frames]
    prepared = [responder.prepare(unpack(pack(make_request(f, "stack", (28, 28))))) for f in frames]
    replies = responder.answer(prepared[:2]) + responder.answer(prepared[2:])
    for reply, output in zip(replies, expected, strict=True):
        np.testing.assert_allclose(reply["actions"], output.actions, atol=2e-5)
        assert reply["progress"] == pytest.approx(output.progress, abs=2e-5)
        lower, upper = output.progress_interval
        assert reply["progress_lower"] == pytest.approx(lower, abs=1e-4)
        assert reply["progress_upper"] == pytest.approx(upper, abs=1e-4)
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens, the model takes 48: shorten"):
        responder.prepare(request("stack " * 20))
