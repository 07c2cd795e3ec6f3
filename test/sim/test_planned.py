"""Demonstrations by the planner: what was executed is disturbed, or a policy's; what is right is said beside it."""

from collections import defaultdict

import numpy as np
import pytest
from convert_results import convert
from rosbags.highlevel import AnyReader

from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import actions_to_model
from pi05_progress_ros.sim import generate
from pi05_progress_ros.sim.episodes import generation
from pi05_progress_ros.sim.episodes.generation import EpisodeMaker, GenerationOptions

PROFILE = RobotProfile.load("teleavatar")
ARMS = np.r_[0:7, 8:15]
SMALL = {"image_scale": 0.05, "picture_rate": 10.0, "joint_rate": 10.0}


def made(folder, seed, task="place_in_basket", **options):
    """The facts of an episode, and its bag."""
    maker = EpisodeMaker(GenerationOptions(task, folder, **SMALL, **options))
    facts = maker.make(seed)
    maker.close()
    return facts, folder / f"{task}_{seed:06d}"


def read(bag):
    """Per topic the messages of a bag."""
    found = defaultdict(list)
    with AnyReader([bag]) as reader:
        for connection, _, data in reader.messages():
            found[connection.topic].append(reader.deserialize(data, connection.msgtype))
    return found


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    return made(tmp_path_factory.mktemp("planned"), 5, planner=True)


def test_a_disturbed_episode_is_a_demonstration_like_others(disturbed, tmp_path):
    facts, bag = disturbed
    assert facts.outcome == "success"
    data = convert(tmp_path / "ds", bag, fps=10, task=None)
    assert data.status == 0, data.text
    assert (data.report["episodes"][0]["outcome"], data.info["total_frames"] > 50) == ("SUCCESS", True)
    # What is right in a frame is its action, and the first row of its chunk.
    actions = actions_to_model(data.column("action"), PROFILE.layout)
    chunks = data.column("demonstration.actions").reshape(len(actions), -1, actions.shape[1])
    np.testing.assert_allclose(chunks[:, 0], actions, atol=1e-3)
    assert chunks.shape[1] >= 10
    assert (np.abs(np.diff(chunks[:, :, ARMS], axis=1)) < 0.12).all()  # a smooth plan of 1 rad/s at most
    # Where the arm moves, it does so towards what the chunk says, but for what disturbs it.
    state = data.column("observation.state")[:, ARMS]
    planned, still = np.abs(chunks[:-10, 8][:, ARMS] - state[10:]), np.abs(state[:-10] - state[10:])
    moving = still.max(1) > 0.2
    assert moving.sum() > 10 and np.median(planned.max(1)[moving]) < 0.5 * np.median(still.max(1)[moving])


def test_what_was_executed_is_on_the_policys_topics_and_is_disturbed(disturbed):
    messages = read(disturbed[1])
    side = max(("left", "right"), key=lambda s: np.ptp([m.position for m in messages[f"/{s}_arm/joint_states"]]))
    right = {m.header.stamp.sec + m.header.stamp.nanosec * 1e-9: m.position for m in messages[f"/{side}_arm/joint_cmd"]}
    executed = messages[PROFILE.target_topics()[side]]
    apart = [np.abs(m.position - right[m.header.stamp.sec + m.header.stamp.nanosec * 1e-9]).max() for m in executed]
    assert 0.02 < np.quantile(apart, 0.9) < 0.5
    assert {m.data for m in messages[PROFILE.grippers[side].command_topic]} >= {0.0, 1.0}


class Still(Policy):
    """Stays where it is."""

    model_id, horizon, action_dt_s = "still", 10, 0.1

    def infer(self, frame, prompt):
        assert set(frame.images) == set(PROFILE.cameras)
        return PolicyOutput(np.repeat(frame.state[None, PROFILE.layout.action_columns], 10, 0), None)


def test_a_policy_that_drives_is_corrected_in_the_states_it_gets_into(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "load_policy", lambda profile, checkpoint: Still())
    monkeypatch.setattr("pi05_progress_ros.sim.episodes.planned.HELP_AFTER_S", 4.0)
    facts, bag = made(tmp_path, 2, correct=True, checkpoint="mine", planner_share=0.0)
    assert facts.outcome == "success"  # with the planner's help in the end
    data = convert(tmp_path / "ds", bag, fps=10, task=None)
    chunks = data.column("demonstration.actions").reshape(data.info["total_frames"], -1, 16)[:, :, ARMS]
    state = data.column("observation.state")[:, ARMS]
    assert np.ptp(state[10:35], axis=0).max() < 0.05  # it stood still ...
    assert (np.abs(chunks[10:35, 10] - state[10:35]).max(1) > 0.2).all()  # ... where it should have been on its way


def test_a_policy_alone_is_not_helped_and_its_failure_is_recorded_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "load_policy", lambda profile, checkpoint: Still())
    monkeypatch.setattr("pi05_progress_ros.sim.episodes.planned.HELP_AFTER_S", 0.5)
    monkeypatch.setattr("pi05_progress_ros.sim.episodes.planned.PATIENCE_S", 2.0)
    facts, bag = made(tmp_path, 2, correct=True, checkpoint="mine", alone=True, failure_s=3.0)
    assert (facts.outcome, facts.reason, facts.milestones) == ("failure", "not done within 2 s", [])
    events = read(bag)["/episode_event"]
    stamps = [e.header.stamp.sec + e.header.stamp.nanosec * 1e-9 for e in events]
    assert (events[-1].event, events[-1].outcome, events[-1].label) == (1, 2, facts.reason)
    assert stamps[-1] - stamps[0] == pytest.approx(2 + 3, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--alone"], "--alone goes with --correct and --checkpoint"),
        (["--checkpoint", "x"], "--correct and --checkpoint belong together"),
        (["--correct"], "--correct and --checkpoint belong together"),
        (["--correct", "--checkpoint", "x", "--planner"], "--planner and --correct: one of them drives"),
        (["--planner", "--fault", "gives_up"], "--fault: only the scripted expert makes mistakes by order"),
        (["--correct", "--checkpoint", "/nothing"], "--checkpoint /nothing"),
        (["--planner", "--disturbance", "-1"], "--disturbance -1.0: expected 0 to 10"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, text, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        generate.main(["--task", "stack_cubes", "--out", str(tmp_path), *arguments])
    assert error.value.code == 2
    assert text in capsys.readouterr().err
