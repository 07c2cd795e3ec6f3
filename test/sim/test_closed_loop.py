"""A policy drives the simulated robot: known policies have known success, and the figures say so."""

import dataclasses
import json

import numpy as np
import pytest
from expert_policies import expert_course

from pi05_progress.errors import UserError
from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import state_to_model
from pi05_progress_ros.commanding.command_rules import CommandSettings
from pi05_progress_ros.sim import evaluate
from pi05_progress_ros.sim.driving.closed_loop import ClosedLoop, DrivenEpisode, LoopSettings
from pi05_progress_ros.sim.evaluate import summarise
from pi05_progress_ros.sim.physics.world import World

PROFILE = RobotProfile.load("teleavatar")
SMALL = LoopSettings(image_scale=0.02, inference_rate_hz=5.0)
HORIZON, DT_S = 30, 1 / 30
START_S = 1.0  # the replay begins when the robot has become READY


class Replay(Policy):
    """Repeats a course; its progress is the share of it that was gone through, and 1 a little after the end."""

    model_id, horizon, action_dt_s = "replay", HORIZON, DT_S

    def __init__(self, course):
        self.course, self.frames = course, []

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        self.frames.append(frame)
        at_s = frame.stamps_ns["head_camera"] * 1e-9 - START_S
        rows = np.clip(np.round((at_s + np.arange(HORIZON) * DT_S) / DT_S), 0, len(self.course) - 1).astype(int)
        progress = float(np.clip(at_s / DT_S / (len(self.course) - 1), 0, 1))
        return PolicyOutput(self.course[rows].astype(np.float32), progress)


class Still(Policy):
    """Commands the pose it sees, and believes to be done."""

    model_id, horizon, action_dt_s = "still", HORIZON, DT_S

    def __init__(self, progress=0.0):
        self.progress = progress

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        arms = state_to_model(frame.state, PROFILE.layout)
        actions = np.zeros((HORIZON, 16), np.float32)
        actions[:, :7], actions[:, 8:15] = arms[:7], arms[7:]
        return PolicyOutput(actions, self.progress)


def still(_profile):
    """For ``--policy test_closed_loop:still``."""
    return Still()


def run(policy, seed=3, settings=SMALL, task="stack_cubes", profile=PROFILE, limit_s=None):
    loop = ClosedLoop(policy, profile, task, settings)
    if limit_s is not None:
        loop._world.task.time_limit_s = limit_s
    try:
        return loop.run(seed)
    finally:
        loop.close()


@pytest.fixture(scope="module")
def replayed():
    """An episode driven by the expert's recorded actions, and the policy that did it."""
    policy = Replay(expert_course("stack_cubes", 3))
    return run(policy), policy


def test_the_experts_actions_do_the_task_through_the_nodes_executor(replayed):
    episode, policy = replayed
    assert (episode.outcome, episode.stopped) == ("success", "")
    assert [name for name, _ in episode.milestones] == World("stack_cubes").task.milestone_names()
    assert episode.true_progress == 1 and episode.progress > 0.9
    assert START_S < episode.decided_s < START_S + len(policy.course) * DT_S + 1
    assert abs(episode.declared_s - episode.decided_s) < 4
    assert episode.inferences == len(policy.frames)


def test_the_policy_sees_what_the_node_would_show_it(replayed):
    _, policy = replayed
    first, later = policy.frames[0], policy.frames[25]
    assert first.images.keys() == PROFILE.cameras.keys()
    assert {image.dtype for image in first.images.values()} == {np.dtype(np.uint8)}
    world = World("stack_cubes", 3)
    np.testing.assert_allclose(first.state[:7], world.home("left"), atol=0.01)
    assert np.abs(later.state[:16] - first.state[:16]).max() > 0.05
    assert later.stamps_ns["head_camera"] == later.stamps_ns["left_arm"] == pytest.approx(5.0e9, abs=1e7)


def test_a_policy_that_stays_still_does_nothing(monkeypatch):
    episode = run(Still(), limit_s=3.0)
    assert (episode.outcome, episode.reason, episode.true_progress) == ("failure", "not done within 3 s", 0)
    assert episode.milestones == () and episode.declared_s is None and episode.stopped == ""
    assert episode.progress == pytest.approx(0, abs=0.02)


def test_declared_success_that_is_none_is_seen():
    episode = run(Still(progress=1.0), limit_s=3.0)
    assert episode.outcome == "failure" and episode.declared_s == pytest.approx(1.0, abs=0.3)
    figures = summarise([episode])
    assert (figures["declared_but_not_done"], figures["agreement"]["share"]) == (1, 0)


def test_speed_is_limited_and_the_slow_start_moves_nothing():
    """Far targets: the arms get there no faster than the node's limit, and not at all before the robot is READY."""

    class Far(Still):
        def infer(self, frame, prompt):
            output = super().infer(frame, prompt)
            seen.append((frame.stamps_ns["head_camera"] * 1e-9, frame.state[8:15].copy()))
            output.actions[:, 8:15] = self.home[8:15] - [0.5, 0, 0, 0, 0, 0, 0]  # away from the table
            return output

    seen, policy = [], Far()
    world = World("stack_cubes", 3)
    policy.home = np.concatenate([world.home("left"), [0], world.home("right"), [0]])
    run(policy, settings=dataclasses.replace(SMALL, commands=CommandSettings(max_joint_speed=0.25)), limit_s=3.0)
    times, moved = np.array([t for t, _ in seen]), policy.home[8] - np.array([s[0] for _, s in seen])
    assert np.abs(moved[times < 0.3]).max() < 0.01
    assert moved[-1] == pytest.approx(0.5, abs=0.06)
    assert 0.15 < (np.diff(moved) / np.diff(times)).max() < 0.33
    strict = CommandSettings(max_tracking_error=0.005)  # rad: less than any moving arm lags behind
    stopped = run(policy, settings=dataclasses.replace(SMALL, commands=strict), limit_s=2.0)
    assert "is the arm blocked?" in stopped.stopped and stopped.outcome == "failure"


@pytest.mark.parametrize(("execute_s", "moves"), [(0.0, False), (0.8, True)])
def test_a_policy_whose_plans_begin_with_standing_still_freezes_unless_they_are_carried_out(execute_s, moves):
    class Hesitates(Still):
        def infer(self, frame, prompt):
            output = super().infer(frame, prompt)
            seen.append(frame.state[8])
            output.actions[:, 8] += 0.3 * np.clip(np.arange(HORIZON) * DT_S - 0.4, 0, None)
            return output

    seen, commands = [], CommandSettings(execute_s=execute_s)
    run(Hesitates(), settings=dataclasses.replace(SMALL, commands=commands, tail_s=0.0), limit_s=5.0)
    moved = abs(seen[-1] - seen[0])
    assert moved > 0.15 if moves else moved < 0.03


def test_answers_that_cannot_be_used_are_an_error_that_says_when():
    policy = Still()
    policy.horizon = HORIZON + 1
    with pytest.raises(UserError, match=r"seed 3, 0.0\d s: the policy's actions are \(30, 16\), expected \(31, 16\)"):
        run(policy)


class Looks(Still):
    """Keeps the first frame and has seen enough."""

    def infer(self, frame, prompt):
        self.frame = frame
        raise UserError("seen")


def test_the_policy_of_a_robot_with_a_stereo_camera_sees_what_the_default_ones_does():
    frames = []
    for name in ("teleavatar", "teleavatar_v1"):
        policy = Looks()
        loop = ClosedLoop(policy, RobotProfile.load(name), "stack_cubes", LoopSettings(image_scale=0.25))
        with pytest.raises(UserError, match="seen"):
            loop.run(3)
        loop.close()
        frames.append(policy.frame)
    for key, image in frames[0].images.items():
        np.testing.assert_array_equal(image, frames[1].images[key])


def test_a_robot_with_other_arms_cannot_be_simulated():
    arms, grippers = ({"left": parts["left"]} for parts in (PROFILE.arms, PROFILE.grippers))
    one_arm = PROFILE.model_copy(update={"arms": arms, "grippers": grippers})
    with pytest.raises(UserError, match="arms of teleavatar are left of 7 joints, with 1 grippers; "):
        ClosedLoop(Still(), one_arm, "stack_cubes")


def made_up(outcome, declared_s, progress=1.0, decided_s=20.0):
    true = 1.0 if outcome == "success" else 0.5
    return DrivenEpisode("t", 0, "do it", outcome, "", decided_s, (), true, progress, declared_s, "", 9)


def test_figures_of_known_episodes_are_known():
    episodes = [
        made_up("success", 21.0), made_up("success", 12.0, decided_s=30.0), made_up("success", None, 0.8),
        made_up("failure", 40.0), made_up("failure", None, 0.5),
    ]  # fmt: skip
    found = summarise(episodes)
    assert (found["success"]["count"], found["success"]["share"]) == (3, 0.6)
    assert found["agreement"]["count"] == 3
    assert (found["declared_and_done"], found["done_but_not_declared"], found["declared_but_not_done"]) == (2, 1, 1)
    assert found["declared_prematurely"] == 1 and found["seconds_to_success"] == pytest.approx(70 / 3)
    assert found["progress_error_at_end"] == pytest.approx((0 + 0 + 0.2 + 0.5 + 0) / 5)
    without_head = summarise([made_up("success", None, None)])
    assert without_head["agreement"] is None and without_head["progress_at_end"] is None


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (50, 50, 0.9287, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_are_those_of_the_tables(count, total, low, high):
    found = summarise([made_up("success", 21.0)] * count + [made_up("failure", None)] * (total - count))["success"]
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-4)


def test_the_command_line_prints_and_writes_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pi05_progress_ros.sim.physics.tasks.base.Task.time_limit_s", 1.0)
    path = tmp_path / "driven.json"
    options = ["--policy", "test_closed_loop:still", "--episodes", "2", "--image-scale", "0.02", "--rate", "5"]
    options += ["--jobs", "1"]  # the limit of time is this process's
    assert evaluate.main([*options, "--task", "place_in_basket", "--json", str(path)]) == 0
    said, written = capsys.readouterr().out, json.loads(path.read_text())
    assert "0/2" in said and "4 episodes" not in said and "2 episodes" in said
    assert [e["seed"] for e in written["episodes"]] == [900_000, 900_001]
    assert written["figures"]["place_in_basket"]["success"]["high"] == pytest.approx(0.6576, abs=1e-3)
    with pytest.raises(SystemExit):
        evaluate.main([*options, "--json", str(path)])
    assert "is already there" in capsys.readouterr().err


def test_what_cannot_drive_is_refused(tmp_path, capsys):
    assert evaluate.main(["--checkpoint", str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main([])
    assert "--checkpoint is missing" in capsys.readouterr().err
