"""The expert that plans from any state, and the posture in which arms grasp."""

import json

import numpy as np
import pytest

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.sim import evaluate
from pi05_progress_ros.sim.expert.kinematics import hand_poses, reach
from pi05_progress_ros.sim.expert.planner import ROW_S, PlannerPolicy
from pi05_progress_ros.sim.physics.scene import side_sign, table_top_z
from pi05_progress_ros.sim.physics.tasks import TASKS
from pi05_progress_ros.sim.physics.tasks.base import CUBE_HALF
from pi05_progress_ros.sim.physics.world import World

PROFILE = RobotProfile.load("teleavatar")
EVERY_S = 0.5  # a new plan takes over
SIDES = ("left", "right")


def drive(world, until_s, until=lambda world: False):
    """The world follows one plan after the other, row by row, until something is so, or decided."""
    planner = PlannerPolicy(PROFILE, world)
    while world.task_status().outcome == "unknown" and world.time_s < until_s and not until(world):
        plan = planner.plan()
        for step in range(round(EVERY_S / 0.01)):
            row = step * 0.01 / ROW_S
            arms = [np.interp(row, np.arange(len(joint)), joint) for joint in plan.arms.T]
            for side, joints, gripper in zip(SIDES, np.split(np.array(arms), 2), plan.grippers[int(row)], strict=True):
                world.set_arm_position(side, joints)
                world.set_gripper(side, gripper)
            world.step(5)


def put(world, name, position):
    address = world.model.joint(name).qposadr[0]
    world.data.qpos[address : address + 7] = [*position, 1, 0, 0, 0]
    world.data.qvel[world.model.joint(name).dofadr[0] :][:6] = 0


@pytest.mark.parametrize("side", SIDES)
def test_grasp_postures_are_exact_smooth_and_away_from_the_joints_limits(side):
    x, y, z = np.meshgrid(np.linspace(0.05, 0.45, 41), np.linspace(-0.5, -0.4, 5), [0.02, 0.08, 0.12], indexing="ij")
    points = np.stack([side_sign(side) * x, y, table_top_z() + z], -1)
    joints = reach(side).joints(points.reshape(-1, 3)).reshape(*x.shape, 7)
    assert np.abs(np.diff(joints, axis=0)).max() < 0.1  # from one centimetre to the next
    low = z < 0.1  # where objects are taken and put; higher up one corner is out of reach
    poses = hand_poses(side, joints[low])
    assert np.linalg.norm(poses.position - points[low], axis=1).max() < 1e-3
    np.testing.assert_allclose(poses.rotation[:, :, 2], np.tile([side_sign(side), 0, 0], (low.sum(), 1)), atol=0.02)
    ranges = reach(side).ranges
    margins = np.minimum(joints - ranges[:, 0], ranges[:, 1] - joints)
    assert margins[low].min() > 0.05
    assert margins[..., 6].min() > 0.2


@pytest.mark.parametrize("task", TASKS)
def test_plans_do_the_task_and_keep_within_joint_ranges_and_speed(task):
    world = World(task, 5)
    plan = PlannerPolicy(PROFILE, world).plan()
    assert (plan.arms.shape, plan.grippers.shape, ROW_S) == ((14, 14), (14, 2), 0.1)
    ranges = np.concatenate([world.joint_ranges(side) for side in SIDES])
    assert (plan.arms >= ranges[:, 0]).all() and (plan.arms <= ranges[:, 1]).all()
    assert np.abs(np.diff(plan.arms, axis=0)).max() < 1.5 * ROW_S
    assert set(np.unique(plan.grippers)) <= {0.0, 1.0}
    drive(world, 40)
    assert world.task_status().outcome == "success", world.task_status()


def test_equal_states_get_equal_plans():
    world = World("stack_cubes", 5)
    drive(world, 3)
    first, again = PlannerPolicy(PROFILE, world).plan(), PlannerPolicy(PROFILE, world).plan()
    np.testing.assert_array_equal(first.arms, again.arms)
    np.testing.assert_array_equal(first.grippers, again.grippers)


def test_the_plan_goes_on_after_an_object_was_taken_out_of_the_hand():
    world = World("stack_cubes", 1)
    drive(world, 20, until=lambda w: w.task_status().milestones)  # the red cube is lifted
    assert [m.name for m in world.task_status().milestones] == ["red_cube lifted"]
    sign = side_sign(world.task.side)
    spot = max(
        ([sign * x, y, table_top_z() + CUBE_HALF] for x in (0.15, 0.25, 0.35) for y in (-0.48, -0.42)),
        key=lambda p: min(np.linalg.norm(p - o[:3]) for n, o in world.object_poses().items() if n != "red_cube"),
    )
    put(world, "red_cube", spot)
    drive(world, 50)
    assert world.task_status().outcome == "success", world.task_status()


@pytest.mark.parametrize(("name", "x", "y"), [("red_cube", 0.25, -0.28), ("blue_cube", -0.02, -0.31),
                                              ("green_cube", 0.4, -0.3)])  # fmt: skip
def test_a_cube_that_fell_beside_the_robot_is_taken_up(name, x, y):
    world = World("stack_cubes", 4)
    put(world, name, [side_sign(world.task.side) * x, y, table_top_z() + CUBE_HALF])
    drive(world, 40)
    assert world.task_status().outcome == "success", world.task_status()
    assert world.object_poses()["green_cube"][1] < -0.38  # where a hand gets high enough for a tower


def test_what_is_held_but_not_wanted_is_put_down_first():
    world = World("stack_cubes", 2)
    planned = world.task.picks
    blue = [pick for pick in planned(world.model, world.data) if pick.name == "blue_cube"]
    world.task.picks = lambda model, data: blue
    held = lambda w: w.object_poses()["blue_cube"][2] > table_top_z() + 0.06  # noqa: E731
    drive(world, 20, until=held)
    assert held(world)
    world.task.picks = planned
    drive(world, 59)
    assert world.task_status().outcome == "success", world.task_status()


def test_the_evaluator_drives_by_it_from_the_truth(tmp_path):
    out = tmp_path / "driven.json"
    options = ["--policy", "planner", "--task", "stack_cubes", "--episodes", "1", "--seed", "3", "--rate", "2"]
    assert evaluate.main([*options, "--image-scale", "0.05", "--workers", "1", "--json", str(out)]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["run"]["model_id"] == "planner"
    assert figures["figures"]["stack_cubes"]["success"]["count"] == 1
