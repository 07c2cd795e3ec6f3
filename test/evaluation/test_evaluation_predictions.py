"""Evaluating recorded episodes: what the policy is shown, and what is kept of its answers."""

import dataclasses

import numpy as np
import pytest
from made_up_predictions import MadeUp
from places import ROOT
from small_datasets import TWO_TASKS

from pi05_progress.estimate.estimator import EstimatorConfig
from pi05_progress.make_policy import make_policy
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policy import Policy, PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from training.datasets import layout
from training.datasets.frames import FrameReader, PictureError
from training.datasets.reader import open_dataset
from training.evaluate_progress import EvaluateOptions, run
from training.evaluation.cache import OWN, code_digest
from training.evaluation.playbacks import PICTURE_NOISE, all_playbacks
from training.evaluation.predictions import Answers, ask, robot_frames, track

PROFILE = RobotProfile.load("teleavatar")
SHOWN = {"wrong_prompt": "fold", "black": "head_camera", "seed": 4}


@pytest.fixture(scope="module")
def small_policy(checkpoint):
    """Its policy, compiled once."""
    policy = make_policy(PROFILE, PolicyOptions(checkpoint=str(checkpoint), num_steps=1))
    policy.warm_up()
    return policy


def frames_of(root, index, policy_frames=None):
    data = open_dataset(root)
    ((episode, columns),) = data.frames([layout.STATE], {index})
    return lambda numbers: robot_frames(episode, columns[layout.STATE], PROFILE, data.fps, numbers)


# --- what the policy is shown ---


def test_frames_are_those_of_the_recording_in_any_choice():
    data = open_dataset(TWO_TASKS)
    span = data.episodes[3].videos["observation.images.head_camera"]
    with FrameReader(data.fps) as videos:
        everything = [videos.read(span, number) for number in range(21)]
    some = list(frames_of(TWO_TASKS, 3)([0, 7, 20]))
    for frame, number in zip(some, (0, 7, 20), strict=True):
        np.testing.assert_array_equal(frame.images["head_camera"], everything[number])
    (frame,) = frames_of(TWO_TASKS, 3)([5])
    ((_, columns),) = data.frames([layout.STATE], {3})
    np.testing.assert_array_equal(frame.state, columns[layout.STATE][5])
    np.testing.assert_array_equal(frame.images["head_camera"], everything[5])
    assert frame.images.keys() == PROFILE.cameras.keys() and frame.stamps_ns["head_camera"] == 500_000_000
    with FrameReader(data.fps) as videos, pytest.raises(PictureError, match="no picture at 50"):
        videos.read(span, 500)


def test_playbacks_show_what_they_say():
    shown = {p.name: p for p in all_playbacks(30, 10, 3, "stack", **SHOWN)}
    plain = shown["plain"]
    assert plain.frames.tolist() == [*range(0, 30, 3), 29] and plain.time_s.tolist() == (plain.frames / 10).tolist()
    assert shown["reversed"].frames.tolist() == plain.frames[::-1].tolist()
    half, double = shown["half_speed"], shown["double_speed"]
    assert half.frames[:5].tolist() == [0, 1, 3, 4, 6] and half.time_s[-1] == pytest.approx(5.8)
    assert double.frames.tolist() == [0, 6, 12, 18, 24, 29] and double.time_s[-1] == pytest.approx(1.45)
    end = shown["held"]
    assert end.frames.tolist() == [*plain.frames, *[29] * 20] and end.time_s[-1] == pytest.approx(2.9 + 6.0)
    assert all((view.noise is None) == (i < 11) for i, view in enumerate(end.views))
    for playback in shown.values():
        assert (np.diff(playback.time_s) > 0).all() and playback.time_s[0] == 0, playback.name
    pause = shown["pause"]
    assert pause.time_s[-1] == pytest.approx(2.9 + 4.8)  # as many steps as fit into five seconds
    assert (pause.frames == plain.frames[5]).sum() == 17 and len({v.noise for v in pause.views}) == 17
    assert {v.prompt for v in shown["wrong"].views} == {"fold"}
    assert {v.black for v in shown["black"].views} == {"head_camera"}


def test_an_episode_shorter_than_the_pause_is_paused_all_the_same():
    pause = {p.name: p for p in all_playbacks(5, 10, 2, "stack", **SHOWN)}["pause"]
    assert pause.time_s[-1] == pytest.approx(0.4 + 5.0)


def test_a_paused_camera_still_has_noise_and_a_covered_one_is_black():
    shown = {p.name: p for p in all_playbacks(12, 10, 2, "stack", **SHOWN)}
    (frame,) = frames_of(TWO_TASKS, 0)([6])
    first, second = [v for v in shown["pause"].views if v.noise is not None][:2]
    noisy = first.of(frame)
    difference = noisy.images["left_color"].astype(float) - frame.images["left_color"]
    inside = (frame.images["left_color"] > 15) & (frame.images["left_color"] < 240)
    assert difference[inside].std() == pytest.approx(PICTURE_NOISE, rel=0.15)
    assert 0 < np.abs(noisy.state - frame.state).max() < 5e-3
    assert (second.of(frame).images["left_color"] != noisy.images["left_color"]).any()
    np.testing.assert_array_equal(first.of(frame).images["left_color"], noisy.images["left_color"])  # repeatable
    covered = shown["black"].views[0].of(frame)
    assert not covered.images["head_camera"].any() and covered.images["left_color"].any()


def test_frames_come_in_order_and_none_before_its_time():
    policy = MadeUp()
    shown = all_playbacks(21, 10, 2, "stack", **SHOWN)
    ask(policy, frames_of(TWO_TASKS, 3), shown)
    (recorded,) = (columns[layout.STATE] for _, columns in open_dataset(TWO_TASKS).frames([layout.STATE], {3}))
    asked = iter(policy.asked)
    for playback in shown:
        for time_s, view in zip(playback.time_s, playback.views, strict=True):
            frame, prompt = next(asked)
            assert prompt == view.prompt and frame.stamps_ns["head_camera"] == round(time_s * 1e9), playback.name
            np.testing.assert_allclose(frame.state, recorded[view.frame], atol=0 if view.noise is None else 5e-3)
    assert next(asked, None) is None


def test_estimates_do_not_know_what_comes_later():
    rng = np.random.default_rng(0)
    playback = all_playbacks(101, 10, 2, "stack", **SHOWN, names=())[0]
    raw = np.clip(np.linspace(0, 1, 51) + rng.normal(0, 0.05, 51), 0, 1)
    whole = track(playback, Answers(raw, None, raw), EstimatorConfig())
    cut = dataclasses.replace(playback, time_s=playback.time_s[:30], views=playback.views[:30])
    begun = track(cut, Answers(raw[:30], None, raw[:30]), EstimatorConfig())
    for name in ("filtered", "status", "remaining_s"):
        np.testing.assert_array_equal(getattr(begun, name), getattr(whole, name)[:30])


def test_a_model_without_memory_answers_each_view_once_and_as_if_it_were_shown_in_order(small_policy, monkeypatch):
    policy = small_policy

    class InOrder(Policy):  # not known to be without memory
        def infer(self, frame, prompt):
            return policy.infer(frame, prompt)

    shown = all_playbacks(12, 10, 3, "stack", **SHOWN)
    calls, infer = [], policy.infer
    monkeypatch.setattr(policy, "infer", lambda frame, prompt: (calls.append(prompt), infer(frame, prompt))[1])
    assert not policy.remembers
    once = ask(policy, frames_of(TWO_TASKS, 0), shown)
    assert len(calls) == len({view for playback in shown for view in playback.views})
    ordered = ask(InOrder(), frames_of(TWO_TASKS, 0), shown)
    assert len(calls) > 1.5 * len({view for playback in shown for view in playback.views})
    for name in once:
        np.testing.assert_array_equal(once[name].progress, ordered[name].progress)
        np.testing.assert_array_equal(once[name].bins, ordered[name].bins)


# --- what is kept of the answers ---


def test_a_run_that_was_stopped_goes_on_where_it_was(checkpoint, small_policy, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("training.evaluation.predictions.make_policy", lambda *_, **__: small_policy)
    calls = []
    infer = Pi05Policy.infer

    def counted(self, frame, prompt):
        calls.append(prompt)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return infer(self, frame, prompt)

    monkeypatch.setattr(Pi05Policy, "infer", counted)
    args = EvaluateOptions(
        dataset, checkpoint, cache=tmp_path / "cache", num_steps=1, perturbations=("reversed",), episodes=(1, 3),
        resamples=100,
    )  # fmt: skip
    stop_at = 55  # within the second episode
    with pytest.raises(KeyboardInterrupt):
        run(args)
    stop_at, calls = None, calls[:0]
    resumed = run(args)
    assert len(calls) == 11 + 30  # of the second episode, and of its end held
    calls.clear()
    known = run(args)
    assert calls == [] and known.total == resumed.total
    faster = run(dataclasses.replace(args, rate=10.0))  # other frames: not those answers
    assert len(calls) == 30 + 21 + 2 * 60 and faster.total != known.total
    (cached,) = {path.parent for path in (tmp_path / "cache").rglob("*.npz")}
    damaged = cached / "episode_000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    calls.clear()
    again = run(dataclasses.replace(args, rate=10.0))
    assert len(calls) == 30 + 60
    assert again.total["voc.raw"] == faster.total["voc.raw"] and again.total["crps.raw"] == faster.total["crps.raw"]
    assert not list(cached.glob("*.partial"))


def test_answers_are_kept_apart_by_robot_profile(checkpoint, small_policy, dataset, tmp_path, monkeypatch):
    """Two files of one name: the second one's first camera has another rate."""
    monkeypatch.setattr("training.evaluation.predictions.make_policy", lambda *_, **__: small_policy)
    text = (ROOT / "config/teleavatar.yaml").read_text()
    profiles = [tmp_path / name / "teleavatar.yaml" for name in ("first", "second")]
    for path, content in zip(profiles, (text, text.replace("rate_hz: 30", "rate_hz: 29", 1)), strict=True):
        path.parent.mkdir()
        path.write_text(content)
    calls, infer = [], Pi05Policy.infer
    monkeypatch.setattr(Pi05Policy, "infer", lambda *args: (calls.append(0), infer(*args))[1])
    args = EvaluateOptions(
        dataset, checkpoint, cache=tmp_path / "cache", num_steps=1, perturbations=(), episodes=(3,), resamples=100,
        rate=1.0,
    )  # fmt: skip
    counts = []
    for path in (profiles[0], profiles[0], profiles[1], profiles[1]):
        calls.clear()
        run(dataclasses.replace(args, robot=str(path)))
        counts.append(len(calls))
    assert counts[0] == counts[2] > 0 and counts[1] == counts[3] == 0


def test_other_code_makes_other_answers(tmp_path):
    package, own = tmp_path / "package", tmp_path / "own"
    for path in (package / "models/pi05.py", package / "serving/server.py", *(own / name for name in OWN)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first")
    first = code_digest(package, own)
    (package / "serving/server.py").write_text("second")
    assert code_digest(package, own) == first
    for path in (package / "models/pi05.py", own / "evaluation/playbacks.py"):
        path.write_text("second")
        assert code_digest(package, own) != first, path
        path.write_text("first")
    assert code_digest(package, own) == first and len(code_digest()) == 64
