"""Episodes of a policy in the simulation: decided, the arms go home smoothly and for nobody else, and it goes on."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time

from pi05_progress.robots.states import FsmState
from pi05_progress_ros.sim.physics.world import World
from pi05_progress_ros.sim.robot.physics_loop import HOME_RAD_S, LEFT_S, PolicyEpisodes
from pi05_progress_ros.sim.robot.robot import STATE_HZ, Robot

AWAY = np.array([0.3, -0.2, 0.1, -0.3, 0.0, 0.2, 0.1])


@pytest.mark.parametrize("lets_go", [True, False])
def test_decided_the_arms_go_home_and_whoever_commands_is_not_heard(lets_go):
    robot = Robot(World("stack_cubes", 3))
    world, episodes = robot.world, PolicyEpisodes(robot)
    world.task.time_limit_s = 2.0  # when physics decides
    targets = {side: world.home(side) + AWAY for side in world.sides}
    states, speeds, ended_s = {}, [], None
    while ended_s is None:
        now = world.time_s
        if not lets_go or now < 4.0:
            robot.machine.enable(1.0, robot.now_s)
            for side in world.sides:
                robot.command_arm(side, targets[side])
        elif now < 4.05:
            robot.machine.enable(0.0, robot.now_s)
        robot.advance()
        if episodes.publish(Time()):
            ended_s = now
        states[now] = robot.machine.state
        if robot.machine.state == FsmState.PAUSE:
            speeds.append(max(np.abs(world.arm_state(side).velocity).max() for side in world.sides))
        assert now < 12
    left_s = max(t for t, state in states.items() if state == FsmState.READY)
    assert left_s == pytest.approx(4.0 if lets_go else 5.0, abs=0.1), (
        "2 s after the decision, and a second for it to let go"
    )
    assert all(state == FsmState.PAUSE for t, state in states.items() if t > left_s + 1 / STATE_HZ)
    assert 0.2 < max(speeds) < 1.2 * HOME_RAD_S
    for side in world.sides:
        np.testing.assert_allclose(world.arm_state(side).position, world.home(side), atol=0.02)
    assert episodes.gave_up == ""
    robot.reset(4)
    episodes.new_episode()
    assert not episodes.publish(Time())
    for _ in range(STATE_HZ):
        robot.machine.enable(1.0, robot.now_s)
        for side in world.sides:
            robot.command_arm(side, targets[side])
        robot.advance()
    assert robot.machine.state != FsmState.PAUSE, "in the next episode commands count again"


def test_an_episode_that_is_left_undone_is_given_up_and_goes_on_at_once_but_not_before_somebody_began():
    robot = Robot(World("stack_cubes", 3))
    world, episodes = robot.world, PolicyEpisodes(robot)
    targets = {side: world.home(side) + AWAY for side in world.sides}
    began_s, pause_s = LEFT_S + 0.5, LEFT_S - 1.0  # it goes on after the pause, in time
    left_s = began_s + 3.0 + pause_s
    gave_up_s = ended_s = None
    while ended_s is None:
        now = world.time_s
        if began_s < now < left_s and not began_s + 2.0 < now < began_s + 2.0 + pause_s:
            robot.machine.enable(1.0, robot.now_s)
            for side in world.sides:
                robot.command_arm(side, targets[side])
        robot.advance()
        if episodes.publish(Time()):
            ended_s = now
        if episodes.gave_up and gave_up_s is None:
            gave_up_s = now
        assert now < left_s + 20
    assert world.task_status().outcome == "unknown"
    assert gave_up_s == pytest.approx(left_s + 1.0 + LEFT_S, abs=0.1), "enabled for 1 s more, and left in PAUSE"
    assert ended_s < gave_up_s + 4, "home, with nobody to wait for"
    for side in world.sides:
        np.testing.assert_allclose(world.arm_state(side).position, world.home(side), atol=0.02)
    robot.reset(4)
    episodes.new_episode()
    assert episodes.gave_up == ""
