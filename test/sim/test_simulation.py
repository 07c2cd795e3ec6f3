"""The simulated world without ROS: kinematics, motion, tasks, expert and cameras."""

import functools

import numpy as np
import pytest

from pi05_progress_ros.sim.expert.expert import Expert, apply, run_episode
from pi05_progress_ros.sim.expert.kinematics import reach
from pi05_progress_ros.sim.physics.cameras import CameraRig, scaled_sizes
from pi05_progress_ros.sim.physics.scene import arm_table
from pi05_progress_ros.sim.physics.tasks import TASKS
from pi05_progress_ros.sim.physics.world import World
from pi05_progress_ros.starting.simulation_choices import FAULTS, Fault

SIDES = ("left", "right")


def test_home_pose_puts_the_fingers_where_the_vendor_says():
    """Known positions of finger a's frame in the robot's root frame, from the kinematic table's own comment."""
    world = World("stack_cubes")
    for side, expected in (("left", (0.253, -0.538, -0.310)), ("right", (-0.197, -0.506, -0.247))):
        hand = world.data.body(f"{side[0]}_joint7")
        finger = hand.xpos + hand.xmat.reshape(3, 3) @ np.array(arm_table().fingers[side][0]["pos"])
        np.testing.assert_allclose(finger, expected, atol=1e-3)


def test_the_arms_are_mirror_images():
    world = World("stack_cubes")
    q = world.home("left")
    world.data.qpos[world._index["left"].qpos] = q
    world.data.qpos[world._index["right"].qpos] = -q
    import mujoco

    mujoco.mj_kinematics(world.model, world.data)
    left, right = (world.data.site(f"{side[0]}_grasp").xpos for side in SIDES)
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=0.014)


@pytest.mark.parametrize("mode", ["position", "velocity"])
def test_an_arm_without_commands_stands_still(mode):
    world = World("stack_cubes", arm_command=mode)
    world.step(1000)
    for side in SIDES:
        np.testing.assert_allclose(world.arm_state(side).position, world.home(side), atol=1e-3)


def test_position_command_is_reached_and_clipped_to_the_joint_range():
    world = World("stack_cubes")
    target = world.home("left") + 0.12
    target[6] = 3.0  # far outside
    world.set_arm_position("left", target)
    world.step(1000)
    reached = world.arm_state("left").position
    np.testing.assert_allclose(reached[:6], target[:6], atol=0.02)
    assert reached[6] == pytest.approx(world.joint_ranges("left")[6, 1], abs=0.02)


def test_velocity_command_moves_at_that_speed_and_zero_holds():
    world = World("stack_cubes", arm_command="velocity")
    velocity = np.array([0.2, 0, 0, 0, 0, -0.3, 0])
    world.set_arm_velocity("left", velocity)
    world.step(500)
    np.testing.assert_allclose(world.arm_state("left").position - world.home("left"), velocity, atol=0.04)
    world.set_arm_velocity("left", np.zeros(7))
    world.step(250)
    stopped = world.arm_state("left").position
    world.step(1000)
    np.testing.assert_allclose(world.arm_state("left").position, stopped, atol=2e-3)


def test_gripper_command_is_the_share_of_its_travel():
    world = World("stack_cubes")
    for command in (0.0, 1.0, 0.5):
        world.set_gripper("right", command)
        world.step(500)
        assert world.gripper_state("right").position == pytest.approx(0.035 * command, abs=0.002)


@pytest.mark.parametrize("bad", [[0.0] * 6, [float("nan")] * 7])
def test_numbers_that_make_no_sense_are_refused(bad):
    world = World("stack_cubes")
    with pytest.raises(ValueError, match="7 finite numbers"):
        world.set_arm_position("left", bad)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown task 'juggle'.*stack_cubes"):
        World("juggle")
    with pytest.raises(ValueError, match=r"unknown fault 'earthquake'.*dropped_object"):
        Fault("earthquake")
    with pytest.raises(ValueError, match="arm_command 'force'"):
        World("stack_cubes", arm_command="force")
    with pytest.raises(ValueError, match="image scale"):
        scaled_sizes(0.0)


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_decides_the_episode(task):
    first, again, other = World(task, seed=5), World(task, seed=5), World(task, seed=6)
    for name, pose in first.object_poses().items():
        np.testing.assert_array_equal(pose, again.object_poses()[name])
    assert any(not np.allclose(p, other.object_poses()[n]) for n, p in first.object_poses().items())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_the_expert_solves_the_task(task, seed):
    world = World(task, seed)
    assert world.task_status().progress == 0.0
    run_episode(world, Expert(world, seed))
    status = world.task_status()
    assert status.outcome == "success", status
    assert status.progress == 1.0
    assert [m.name for m in status.milestones] == world.task.milestone_names()
    times = [m.time_s for m in status.milestones]
    assert times == sorted(times)


@functools.cache
def seconds_without_fault(task):
    """How long the expert takes for seed 1."""
    world = World(task, 1)
    run_episode(world, Expert(world, 1))
    return world.time_s


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "wrong_object"])  # there is one object only
def test_faults_in_lifting_are_made_good_or_fail(kind):
    faulty = World("lift_cube", 1)
    expert = Expert(faulty, 1, [Fault(kind)])
    run_episode(faulty, expert)
    if kind == "dropped_behind":
        assert faulty.task_status().reason == "red cube fell off the table"
    elif kind in FAILURES:
        assert faulty.task_status().outcome == "unknown"
        assert expert.finished
        cube = faulty.object_poses()["red_cube"][None, :3]
        assert reach(faulty.task.side).reaches(cube) == (kind != "out_of_reach")
    else:
        assert faulty.task_status().outcome == "success", faulty.task_status()
        assert faulty.time_s > seconds_without_fault("lift_cube") + 2.0


@pytest.mark.parametrize("task", TASKS)
def test_seeds_take_turns_in_wording_the_instruction(task):
    world = World(task)
    told = set()
    for seed in range(4 * len(world.task.wordings)):
        world.reset(seed)
        assert "{" not in world.instruction
        told.add(world.instruction)
    assert len(told) >= len(world.task.wordings) >= 4


GIVEN_UP = {"gives_up", "leaves_object", "freezes_holding"}
FAILURES = GIVEN_UP | {"wrong_object", "out_of_reach", "empty_gripper", "dropped_behind"}


# Short is one of them; the others are made good in lifting, above.
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.long] * (k != "missed_grasp")) for k in sorted({*FAULTS} - FAILURES)]
)
def test_faults_cost_time_and_the_expert_recovers(kind):
    faulty = World("stack_cubes", 1)
    run_episode(faulty, Expert(faulty, 1, [Fault(kind)]))
    assert faulty.task_status().outcome == "success", faulty.task_status()
    assert faulty.time_s > seconds_without_fault("stack_cubes") + 2.0


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.long] * (k == "leaves_object")) for k in sorted(GIVEN_UP)]
)
def test_who_gives_up_leaves_the_task_where_it_is(kind):
    world = World("stack_cubes", 1)
    expert = Expert(world, 1, [Fault(kind, 1), Fault("missed_grasp", 5)])
    run_episode(world, expert)
    status = world.task_status()
    assert (status.outcome, expert.finished) == ("unknown", True)
    reached = 2 if kind == "gives_up" else 3  # it was lifted
    assert len(status.milestones) == reached
    assert status.progress == (0.75 if kind == "freezes_holding" else 0.5)
    assert expert.taken == [f"{kind}:1"]


@pytest.mark.parametrize(
    ("kind", "why", "marks", "progress"),
    [
        ("wrong_object", "given up: took the red cube instead of the blue cube", ["undone red_cube stacked"], 0.25),
        ("out_of_reach", "given up: pushed the blue cube out of reach", [], 0.5),
        ("empty_gripper", "not noticed that the blue cube was not held", [], 0.5),
        ("dropped_behind", "blue cube fell off the table", ["blue_cube lifted", "undone blue_cube lifted"], 0.5),
    ],
)
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2)])
def test_a_failure_says_what_happened_and_is_seen_in_the_milestones(kind, why, marks, progress, seed):
    world = World("stack_cubes", seed)
    expert = Expert(world, seed, [Fault(kind, 1)])
    while not expert.finished:
        apply(world, expert.command())
        world.step(10)
    status = world.task_status()
    assert (status.reason or expert.reason) == why
    assert [mark.name for mark in status.marks] == ["red_cube lifted", "red_cube stacked", *marks]
    assert status.progress == progress


def test_an_undone_step_lowers_the_true_progress():
    world = World("stack_cubes", 1)
    expert = Expert(world, 1, [Fault("undone_step")])
    seen = []
    while not expert.finished and world.task_status().outcome == "unknown":
        apply(world, expert.command())
        world.step(10)
        seen.append(world.task_status().progress)
    assert max(np.maximum.accumulate(seen) - seen) >= 0.25


def test_an_object_on_the_floor_is_a_failure():
    world = World("stack_cubes")
    world.data.qpos[world.model.joint("red_cube").qposadr[0]] = 1.5
    world.step(600)
    status = world.task_status()
    assert status.outcome == "failure"
    assert "red cube fell off the table" in status.reason


def test_cameras_have_the_sizes_asked_for_and_see_the_scene():
    world = World("place_in_basket", seed=2)
    rig = CameraRig(world.model, scaled_sizes(0.25))
    try:
        images = rig.render(world.snapshot())
    finally:
        rig.close()
    assert {key: image.shape for key, image in images.items()} == {
        "left_color": (120, 212, 3),
        "right_color": (120, 212, 3),
        "head_camera": (270, 480, 3),
    }
    head = images["head_camera"].astype(int)
    yellow = (head[..., 0] > 120) & (head[..., 1] > 90) & (head[..., 2] < 60)
    assert yellow.sum() > 20, "the yellow block is not in the head camera's picture"
