"""The robot's state machine."""

import numpy as np
import pytest

from pi05_progress.robots.states import FsmState
from pi05_progress_ros.sim.robot.robot import StateMachine

HOME = {"left": np.zeros(7), "right": np.zeros(7)}


def drive(machine, target, seconds, start=0.0, enable=True, position=None):
    """Run at 200 Hz with an ideal arm; returns (states seen, final positions)."""
    positions = {s: p.copy() for s, p in (position or HOME).items()}
    states = []
    for step in range(int(seconds * 200)):
        now = start + step / 200
        if enable and step % 20 == 0:
            machine.enable(1.0, now)
        if target is not None:
            for side in HOME:
                machine.command(side, target, now)
        before = {s: p.copy() for s, p in positions.items()}
        for side, follow in machine.update(positions, now).items():
            if follow is not None:
                positions[side] = follow.copy()
        if machine.state == FsmState.SLOW_START:
            assert max(np.abs(positions[s] - before[s]).max() for s in HOME) <= 0.5 / 200 + 1e-9
        states.append(machine.state)
    return states, positions


def test_enable_leads_through_slow_start_to_ready():
    states, positions = drive(StateMachine(), np.full(7, 0.4), 2.0)
    assert list(dict.fromkeys(states)) == [FsmState.SLOW_START, FsmState.READY]
    assert states.index(FsmState.READY) / 200 == pytest.approx((0.4 - 0.08) / 0.5 + 4 * 0.05, abs=0.06)
    np.testing.assert_allclose(positions["left"], 0.4)


def test_commands_without_enable_change_nothing():
    states, positions = drive(StateMachine(), np.full(7, 0.4), 1.0, enable=False)
    assert set(states) == {FsmState.PAUSE}
    np.testing.assert_array_equal(positions["left"], 0)


def test_enable_without_commands_waits_and_holds():
    states, positions = drive(StateMachine(), None, 1.0)
    assert set(states) == {FsmState.SLOW_START}
    np.testing.assert_array_equal(positions["right"], 0)


def test_a_silent_heartbeat_pauses_after_a_second():
    machine = StateMachine()
    drive(machine, np.zeros(7), 1.0)
    assert machine.state == FsmState.READY
    states, _ = drive(machine, np.full(7, 0.02), 1.5, start=1.0, enable=False)
    assert machine.state == FsmState.PAUSE
    assert "no enable" in machine.reason
    assert 0.8 < states.index(FsmState.PAUSE) / 200 < 1.1


def test_disable_pauses_at_once():
    machine = StateMachine()
    drive(machine, np.zeros(7), 1.0)
    machine.enable(0.0, 1.0)
    assert machine.state == FsmState.PAUSE
    assert machine.update(HOME, 1.001) == {"left": None, "right": None}


def test_one_silent_arm_is_held_while_the_other_moves():
    machine = StateMachine()
    drive(machine, np.zeros(7), 1.0)
    machine.enable(1.0, 1.6)
    machine.command("left", np.full(7, 0.01), 1.6)
    follow = machine.update(HOME, 1.6)
    assert follow["right"] is None
    np.testing.assert_array_equal(follow["left"], 0.01)
