"""What the arms keep to, judged by other geometry than that of the limits: spheres on the simulation's own links."""

import builtins

import mujoco
import numpy as np
import pytest

from pi05_progress.files.config_files import config_file
from pi05_progress.robots.joints import JointValues
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.geometry import NO_MUJOCO, OWN_LINKS, Geometry
from pi05_progress_ros.commanding.limits import LINK_SPEED, Limits
from pi05_progress_ros.sim.physics.scene import FINGER_TRAVEL, arm_table, make_spec, table_top_z

PROFILE = RobotProfile.load("teleavatar")
HOME = arm_table().home
ABOVE = {s: np.clip(arm.limits().mean(axis=1) + 0.3, *arm.limits().T) for s, arm in PROFILE.arms.items()}
PERIOD, SPEED, ACCELERATION = 0.01, 1.0, 15.0
MARGIN, FINGERS = PROFILE.geometry.margin, PROFILE.geometry.finger_margin
TABLE = PROFILE.geometry.boxes["table"]


class Judge:
    """Spheres within the links, hands and fingers of the simulated robot."""

    def __init__(self):
        self.model = make_spec().compile()
        self.data = mujoco.MjData(self.model)
        self.at = {s: [self.model.joint(n).qposadr[0] for n in PROFILE.arms[s].joints] for s in PROFILE.arms}
        self.spheres = {side: self._spheres(side) for side in PROFILE.arms}

    def _spheres(self, side):
        """Bodies, places in them, radii, and whether they are a finger's."""
        found = []
        for geom in range(self.model.ngeom):
            body, size = self.model.geom_bodyid[geom], self.model.geom_size[geom]
            name = self.model.body(body).name
            if not name.startswith(side[0] + "_"):
                continue
            turned = np.empty(9)
            mujoco.mju_quat2Mat(turned, self.model.geom_quat[geom])
            if self.model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
                places, radius = [[0, 0, z] for z in np.linspace(-size[1], size[1], 9)], size[0]
            else:
                places, radius = size * (np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 3)), 0.0
            for place in places:
                found.append((body, self.model.geom_pos[geom] + turned.reshape(3, 3) @ place, radius, "finger" in name))
        bodies, places, radii, fingers = zip(*found, strict=True)
        return np.array(bodies), np.array(places), np.array(radii), np.array(fingers)

    def points(self, pose, opening):
        """Per arm (n, 3), m."""
        for side in PROFILE.arms:
            self.data.qpos[self.at[side]] = pose[side]
            for finger in "ab":
                self.data.qpos[self.model.joint(f"{side[0]}_finger_{finger}").qposadr[0]] = opening
        mujoco.mj_kinematics(self.model, self.data)
        turned = self.data.xmat.reshape(-1, 3, 3)
        return {
            s: self.data.xpos[b] + np.einsum("nij,nj->ni", turned[b], p) for s, (b, p, _, _) in self.spheres.items()
        }

    def room(self, pose):
        """How far everything is beyond the margin it has to keep, m; less than 0 if something has not kept it."""
        least = np.inf
        for opening in (0.0, FINGER_TRAVEL):
            points = self.points(pose, opening)
            for side, (_, _, radius, finger) in self.spheres.items():
                beyond = np.abs(points[side] - TABLE.centre) - np.array(TABLE.size) / 2
                outside = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)
                least = min(least, (outside - radius - np.where(finger, FINGERS, MARGIN)).min())
            (left, right), (_, _, r1, f1), (_, _, r2, f2) = points.values(), *self.spheres.values()
            squared = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
            apart = np.sqrt(np.maximum(squared, 0)) - r1[:, None] - r2
            least = min(least, (apart - np.where(f1[:, None] & f2, FINGERS, MARGIN)).min())
        return least

    def speed(self, before, after):
        """Of the fastest sphere's middle, m/s."""
        one, other = self.points(before, FINGER_TRAVEL), self.points(after, FINGER_TRAVEL)
        return max(np.linalg.norm(other[s] - one[s], axis=1).max() for s in one) / PERIOD


JUDGE = Judge()


def goal_of(rng):
    """Anywhere, beyond the ranges, too; or there where, of many places, the table or the other arm is nearest."""
    ranges = {side: PROFILE.arms[side].limits().T for side in PROFILE.arms}
    goals = [{s: rng.uniform(low - 0.5, high + 0.5) for s, (low, high) in ranges.items()} for _ in range(30)]
    hands = [[points[-1] for points in JUDGE.points(goal, 0.0).values()] for goal in goals]
    best = {
        "table": np.argmin([max(abs(z - table_top_z()) for _, _, z in pair) for pair in hands]),
        "other arm": np.argmin([np.linalg.norm(left - right) for left, right in hands]),
    }
    return goals[best.get(rng.choice(["anywhere", "table", "other arm"]), 0)]


def drive(limits, chunks, seed, reasons):
    """Random chunks of half a second, from above the table on, where every limit brings the arms back to.

    Yields every command with the one before it; collects the reasons.
    """
    rng, measured, goal = np.random.default_rng(seed), None, None
    for _ in range(chunks):
        if goal is None or rng.random() < 0.3:
            goal, shake = goal_of(rng), rng.choice([0.0, 0.0, 0.2])
        if measured is None:
            limits.end()
            limits.begin(ABOVE)
            last = measured = ABOVE
        for _ in range(50):
            command = limits.towards({side: goal[side] + rng.normal(0, shake, 7) for side in goal}, PERIOD)
            if reason := limits.problem(measured, command, PERIOD):
                reasons.append(reason)
                measured = goal = None
                break
            yield last, command
            measured = {s: q + 0.1 * (command[s] - q) + rng.normal(0, 1e-4, 7) for s, q in measured.items()}
            last = command


def judge(chunks, seed, limits):
    """Room that was kept at least, the largest speed of a point and of a joint, and the reasons."""
    room, speed, joints = np.inf, 0.0, 0.0
    reasons = []
    for before, command in drive(limits, chunks, seed, reasons):
        joints = max(joints, *(np.abs(command[side] - before[side]).max() / PERIOD for side in command))
        room, speed = min(room, JUDGE.room(command)), max(speed, JUDGE.speed(before, command))
    return room, speed, joints, reasons


def check(chunks, seed, full_speed):
    limits = Limits(PROFILE, SPEED, ACCELERATION)
    limits.full_speed = full_speed
    room, speed, joints, reasons = judge(chunks, seed, limits)
    ends = [reason.partition(" would be ")[0] for reason in reasons]
    table = sum(end.endswith("and table") for end in ends)
    arm = len(ends) - table
    print(f"seed {seed}: {room * 1000:.1f} mm of room, {speed:.3f} m/s, {joints:.3f} rad/s; {table} table, {arm} arms")
    assert room > 0 and joints <= SPEED + 1e-9 and (full_speed or speed <= 0.25)
    return table, arm


@pytest.mark.parametrize("full_speed", [False, True])
def test_random_chunks_keep_their_distance_and_no_point_is_faster_than_its_bound(full_speed):
    assert any(check(20, 1, full_speed))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_random_chunks_keep_their_distance(seed):
    assert all(check(1000, seed, full_speed=bool(seed % 2)))


def test_the_judge_sees_what_comes_too_near_or_is_too_fast():
    limits = Limits(PROFILE.model_copy(update={"geometry": None}), SPEED, ACCELERATION)
    room, speed, *_ = judge(8, 1, limits)
    assert room < 0 and speed > LINK_SPEED


def measured(position=ABOVE, **fields):
    """Both arms as they say of themselves; ``fields`` are of the left one, for its first joint."""
    arms = {side: JointValues(pose, np.zeros(7), np.zeros(7)) for side, pose in position.items()}
    first = np.eye(7)[0]
    return arms | {"left": arms["left"]._replace(**{name: value * first for name, value in fields.items()})}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"effort": -61.0}, "effort of l_joint1 measured: 61 N m, at most 60 N m are allowed"),
        ({"velocity": 1.6}, "speed of l_joint1 measured: 1.6 rad/s, at most 1.5 rad/s are allowed"),
        ({"velocity": 1.4}, "speed of a link measured: "),
    ],
)
def test_what_is_measured_beyond_its_limit_for_50_ms_is_told(fields, text):
    limits = Limits(PROFILE, SPEED, ACCELERATION)
    limits.begin(ABOVE)
    assert limits.measured(measured(), 0.0) == limits.measured(measured(**fields), 0.01) == ""
    assert limits.measured(measured(**fields), 0.05) == ""
    assert limits.measured(measured(**fields), 0.0601).startswith(text)
    assert limits.measured(measured(), 0.07) == limits.measured(measured(**fields), 0.08) == "", "a peak is none"


def test_who_is_too_near_may_move_away_and_come_no_nearer():
    kept = PROFILE.geometry.model_copy(update={"margin": 0.03})
    limits = Limits(PROFILE.model_copy(update={"geometry": kept}), SPEED, ACCELERATION)
    middle = {side: pose - 0.19 for side, pose in ABOVE.items()}  # hands are within the margin above the table
    up = np.full(7, 0.0005)

    def left(moved):
        return middle | {"left": middle["left"] + moved}

    limits.begin(middle)
    assert limits.problem(middle, middle, PERIOD) == "", "held where it is"
    for count in range(1, 6):
        assert limits.problem(left((count - 1) * up), left(count * up), PERIOD) == ""
    down = [limits.problem(left(count * up), left((count - 1) * up), PERIOD) for count in range(5, -20, -1)]
    assert any("and table would be" in text and "mm are kept: move the arms apart" in text for text in down)


@pytest.mark.parametrize("away", [0, 20])
def test_what_is_too_near_comes_no_nearer_than_it_was_commanded_last(away):
    limits, geometry = Limits(PROFILE, SPEED, ACCELERATION), Geometry(PROFILE)
    near = {side: pose - 0.19 for side, pose in ABOVE.items()}

    def at(step):
        return {side: pose + 0.002 * step for side, pose in near.items()}

    def apart(step):
        geometry.place(at(step))
        return min(geometry.distances().values())

    limits.begin(near)
    for step in range(away + 1):
        assert limits.problem(near, at(step), 1.0) == "", "it may move away"
    step = next(step for step in range(away, -50, -1) if limits.problem(near, at(step), 1.0))
    assert apart(away) - apart(step) > 0.001 >= apart(away) - apart(step + 1)


def test_the_way_from_the_measured_to_the_commanded_pose_is_looked_at():
    limits = Limits(PROFILE, SPEED, ACCELERATION)
    below = {side: arm.limits().mean(axis=1) for side, arm in PROFILE.arms.items()}
    behind = {side: 2 * below[side] - ABOVE[side] for side in below}  # the arm would go through the table
    limits.begin(behind)
    assert "table would be" in limits.problem(ABOVE, behind, PERIOD)


def test_a_hand_is_kept_off_its_own_shoulder():
    limits = Limits(PROFILE, SPEED, ACCELERATION)
    limits.full_speed = True
    limits.begin(ABOVE)
    folded = np.array([-0.58, 1.32, -1.58, 2.2, -0.9, 1.4, 0.68])  # a finger would be 6 cm within the shoulder
    goal, last, text = ABOVE | {"left": folded}, ABOVE, ""
    for _ in range(200):
        command = limits.towards(goal, PERIOD)
        if text := limits.problem(last, command, PERIOD):
            break
        last = command
    assert (
        text.startswith("the link of l_joint1 and a finger of the left arm would be ")
        and f"{PROFILE.geometry.margin * 1000:.0f} mm are kept" in text
    )


def test_what_is_not_looked_at_of_an_arm_itself_cannot_touch_within_its_ranges():
    geometry, rng = Geometry(PROFILE), np.random.default_rng(0)
    ranges = {side: PROFILE.arms[side].limits().T for side in PROFILE.arms}
    along = [*range(7), 7, 7, 7, 7]  # links, and fingers after them
    near = [(a, b) for a in range(11) for b in range(11) if 3 <= along[b] - along[a] < OWN_LINKS]
    own = [*near, *((a + 11, b + 11) for a, b in near)]
    for _ in range(100):
        geometry.place({side: rng.uniform(*ranges[side]) for side in ranges})
        assert min(geometry._distance(geometry._pairs[0]._replace(one=a, other=b), 1.0) for a, b in own) > MARGIN


def test_a_box_may_have_an_arms_name_and_is_kept_off_by_both():
    box = PROFILE.geometry.boxes["table"].model_copy(update={"centre": (0.0, -0.3, -0.2)})
    named = PROFILE.geometry.model_copy(update={"boxes": {"left": box}})
    geometry = Geometry(PROFILE.model_copy(update={"geometry": named}))
    geometry.place(ABOVE)
    names = " ".join(geometry.names(pair) for pair in geometry.distances())
    assert "l_joint" in names and "r_joint" in names


def test_what_is_no_number_is_not_commanded():
    for profile in (PROFILE, PROFILE.model_copy(update={"geometry": None})):
        limits = Limits(profile, SPEED, ACCELERATION)
        limits.begin(ABOVE)
        odd = ABOVE | {"right": np.where(np.arange(7) == 2, np.nan, ABOVE["right"])}
        assert limits.problem(ABOVE, odd, PERIOD).startswith("r_joint3 would be commanded outside its range")
        limits.begin(ABOVE)
        assert limits.problem(ABOVE, limits.towards(odd, PERIOD), PERIOD)


def test_commands_are_slow_enough_at_every_rate():
    free = PROFILE.model_copy(update={"geometry": PROFILE.geometry.model_copy(update={"boxes": {}, "margin": 1e-6})})
    limits, rng = Limits(free, 3.0, 100.0), np.random.default_rng(0)
    for _ in range(30):
        last, goal = ({s: rng.uniform(*arm.limits().T) for s, arm in PROFILE.arms.items()} for _ in range(2))
        limits.begin(last)
        for _ in range(15):
            command = limits.towards(goal, 0.1)
            text = limits.problem(last, command, 0.1)
            assert "/s" not in text
            if text:
                break
            last = command


def test_a_geometry_that_lacks_something_is_said_with_its_file(tmp_path):
    text = config_file("arm_geometry.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("hand: [0, 0.095", "palm: [0, 0.095"), encoding="utf-8")
    lacking = PROFILE.geometry.model_copy(update={"file": str(file)})
    (said,) = Limits(PROFILE.model_copy(update={"geometry": lacking}), SPEED, ACCELERATION).unwatched
    assert f"{file}: links or capsules of arm left" in said and "hand" in said


def test_what_is_not_watched_is_said(monkeypatch):
    assert Limits(PROFILE, SPEED, ACCELERATION).unwatched == ()
    arms = {side: arm.model_copy(update={"max_effort": None}) for side, arm in PROFILE.arms.items()}
    blind = Limits(PROFILE.model_copy(update={"arms": arms, "geometry": None}), SPEED, ACCELERATION)
    assert "the profile teleavatar has no geometry" in blind.unwatched[0] and len(blind.unwatched) == 3
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "mujoco":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (text,) = Limits(PROFILE, SPEED, ACCELERATION).unwatched
    assert NO_MUJOCO in text
