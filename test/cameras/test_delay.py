"""How late pictures are stamped, told from when they move and when their arm does."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.inputs import Inputs, Limits
from pi05_progress_ros.measure_delay import estimate_delay, reduced
from pi05_progress_ros.sim.physics.cameras import CameraRig, scaled_sizes
from pi05_progress_ros.sim.physics.world import World

SECONDS = 12.0
JOINTS_S = np.arange(0, SECONDS, 0.01)


def jerks(seed=0):
    """A joint's positions, rad, as a person moves it: now and then, with pauses."""
    rng = np.random.default_rng(seed)
    speed = np.repeat(rng.uniform(-1.5, 1.5, int(SECONDS / 0.4)) * (rng.random(int(SECONDS / 0.4)) < 0.6), 40)
    return 0.3 * np.tanh(np.cumsum(np.convolve(speed, np.ones(12) / 12, "same")) * 0.01)


def path(position):
    return np.concatenate([[0], np.cumsum(np.abs(np.diff(position)))])


@pytest.fixture(scope="module")
def seen():
    """How much pictures of a simulated wrist camera move while its arm does as in jerks(), and when."""
    world, position, small = World("lift_cube", 0), jerks(), []
    rig = CameraRig(world.model, {"left_color": scaled_sizes(0.05)["left_color"]})
    at = [world.model.joint(f"l_joint{n}").qposadr[0] for n in (1, 4)]
    taken = np.arange(0, 6, 1 / 30)
    for moment in taken:
        state = world.snapshot()
        state[at] += np.interp(moment, JOINTS_S, position)
        small.append(reduced(rig.render(state)["left_color"]))
    rig.close()
    return taken, [0.0, *(np.abs(now - before).mean() for before, now in itertools.pairwise(small))], path(position)


@pytest.mark.parametrize("delay_s", [0.0, 0.12, 0.6])
def test_a_planted_delay_of_a_simulated_wrist_camera_is_found(seen, delay_s):
    taken, motion, gone = seen
    stamps = taken + delay_s + np.random.default_rng(1).uniform(-0.002, 0.002, len(taken))
    found_s, correlation = estimate_delay(stamps, motion, JOINTS_S, gone)
    assert found_s == pytest.approx(delay_s, abs=0.015) and correlation > 0.7


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_stamps_count_less_the_delay_for_being_in_step(delay_s):
    profile = RobotProfile.load("teleavatar")
    late = profile.cameras["left_color"].model_copy(update={"delay_s": delay_s})
    inputs = Inputs(Limits(), profile.model_copy(update={"cameras": profile.cameras | {"left_color": late}}))
    for name, stamp in {"left_color": 500, "head_camera": 200, "left_arm": 210}.items():
        inputs.add(name, name, image=name != "left_arm")
        header = SimpleNamespace(stamp=SimpleNamespace(sec=9, nanosec=stamp * 10**6))
        inputs.store(name, SimpleNamespace(header=header, data=b"", name=[], position=[]), 0)
    now = inputs.snapshot(9_500_000_000)
    assert now.stamps_ns["left_color"] == 9_500_000_000 - round(delay_s * 1e9)
    assert now.problems == (
        () if delay_s else ("head_camera is 0.30 s behind left_color (limit 0.2 s): inputs are not in step",)
    )


def made_up(position, seen=None, delay_s=0.1):
    stamps = np.arange(0, SECONDS - 1, 1 / 30) + delay_s
    seen = np.interp(stamps - delay_s, JOINTS_S, position if seen is None else seen)
    motion = np.abs(np.diff(seen, prepend=seen[0]))
    return stamps, motion, JOINTS_S, path(position)


SAID = {
    "does not move": (0 * JOINTS_S, None, "its arm moved by 0.00 rad only: move it briskly"),
    "out of view": (jerks(), jerks(7), "its pictures do not move with its arm"),
    "to and fro": (np.sin(10 * JOINTS_S), None, "several delays explain its pictures: move the arm irregularly"),
}


@pytest.mark.parametrize("case", SAID)
def test_where_it_cannot_be_told_the_operator_learns_what_to_do(case):
    position, seen, said = SAID[case]
    with pytest.raises(UserError, match=said):
        estimate_delay(*made_up(position, seen))


def test_few_pictures_tell_nothing():
    stamps, motion, *joints = made_up(jerks())
    with pytest.raises(UserError, match="9 pictures and 1200 joint states came, 60 pictures are needed"):
        estimate_delay(stamps[:9], motion[:9], *joints)
