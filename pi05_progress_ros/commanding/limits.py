"""What ends a goal because the arms would come, or have come, beyond a limit. Neither ROS nor a clock in here.

Whoever commands the arms asks before every command (``problem``) and tells what was measured (``measured``); what can
be mended by commanding less is mended before that (``towards``). docs/commanding.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.robots.joints import JointValues
from pi05_progress.robots.profile import RobotProfile

from .geometry import Geometry, Pair, Pose

LINK_SPEED = 0.25  # m/s of any point of a link: ISO 10218-1, beside people
OVER_S = 0.05  # for so long a measured number may be above its limit
MEASURED_SPEED = 1.5  # share of a bound on commands that arms may reach in following them
LEAST_SPEED = 0.5  # rad/s: joints may reach that, however slowly they are commanded; measured speeds tremble
ROUNDING = 1.001  # of commands that keep to their bounds
BENT = 1.01  # half of a turn is a little more than half of the way
SLOWED = 4  # times at most that a command is slowed down, for the same reason
OUTSIDE_RAD = 0.05  # how far outside its range a joint may be measured
PATH_RAD = 0.1  # between two poses that are looked at on the way from the measured to the commanded one
TOLERANCE = 0.001  # m: how much nearer arms may come that are too near already, for measured positions tremble
REMEDY = "move the arms apart by teleoperation or by hand"


class Limits:
    """See the module's docstring; used by one thread.

    Bounds on commanded joints are in rad/s and rad/s^2; braking is not bounded.
    """

    def __init__(self, profile: RobotProfile, max_joint_speed: float, max_acceleration: float) -> None:
        self._profile, self._speed, self._acceleration = profile, max_joint_speed, max_acceleration
        self.full_speed = False  # whether links may be faster than ``LINK_SPEED``
        self._geometry, unwatched = None, []
        try:
            self._geometry = Geometry(profile)
        except (UserError, OSError) as error:
            unwatched.append(f"the speed of links and their distance to table, boxes and the other arm: {error}")
        for name, arm in profile.arms.items():
            if arm.max_effort is None:
                unwatched.append(f"the effort of the {name} arm: the profile has no max_effort")
        self.unwatched = tuple(unwatched)  # what is not watched, and what to do about it
        self._over: dict[str, float] = {}  # since when what is measured is above its limit
        self.end()

    def begin(self, pose: Pose) -> None:
        """The arms are, or are held, in this pose: what is commanded next goes on from there at rest."""
        self._last, self._velocity = dict(pose), {arm: np.zeros(len(joints)) for arm, joints in pose.items()}
        self._targets: dict[str, np.ndarray] = {}
        self._placed = self._geometry.place(pose) if pose and self._geometry else None
        self._floors: dict[Pair, float] = {}  # how near those may come that were too near in this pose, m

    def end(self) -> None:
        """Nothing is commanded any more."""
        self.begin({})
        self._over.clear()

    # --- what was measured ---

    def outside(self, pose: Pose) -> str:
        """Which joint is too far outside its range; empty if none is."""
        for arm, position in pose.items():
            limits, joints = self._profile.arms[arm].limits(), self._profile.arms[arm].joints
            outside = np.maximum(limits[:, 0] - position, position - limits[:, 1])
            if outside.max() > OUTSIDE_RAD:
                joint = joints[int(outside.argmax())]
                most = f"at most {OUTSIDE_RAD:g} rad are allowed"
                return f"{joint} is {outside.max():.2f} rad outside its range, {most}: move the arm by hand"
        return ""

    def measured(self, arms: Mapping[str, JointValues], now_s: float) -> str:
        """Which limit the arms are beyond while they are commanded; empty if none. To be told at every tick."""
        if text := self.outside({arm: values.position for arm, values in arms.items()}):
            return text
        found: dict[str, str] = {}
        for arm, values in arms.items():
            about = self._profile.arms[arm]
            for what, size, most, unit in (
                ("effort", np.abs(values.effort), about.max_effort or math.inf, "N m"),
                ("speed", np.abs(values.velocity), max(MEASURED_SPEED * self._speed, LEAST_SPEED), "rad/s"),
            ):
                for at in np.flatnonzero(size > most):
                    bound, joint = float(np.broadcast_to(most, size.shape)[at]), about.joints[at]
                    found[f"{what} of {joint}"] = f"{size[at]:.3g} {unit}, at most {bound:.3g} {unit} are allowed"
        if text := self._links_speed(arms):
            found["speed of a link"] = text
        self._over = {what: self._over.get(what, now_s) for what in found}
        for what, since_s in self._over.items():
            if now_s - since_s >= OVER_S:
                return f"{what} measured: {found[what]}; look what the arm runs against, or what pushes it"
        return ""

    def _links_speed(self, arms: Mapping[str, JointValues]) -> str:
        velocities = {arm: values.velocity for arm, values in arms.items()}
        moves = any(speed.any() for speed in velocities.values())
        if self._geometry is None or self.full_speed or not moves or len(arms) < len(self._profile.arms):
            return ""
        pose = {arm: values.position.astype(float) for arm, values in arms.items()}
        before, step_s, bound = self._geometry.place(pose), 0.01, MEASURED_SPEED * LINK_SPEED
        after = self._geometry.place({arm: pose[arm] + step_s * velocities[arm] for arm in pose})
        moved, name = self._geometry.farthest(before, after)
        return f"{name} {moved / step_s:.2f} m/s, at most {bound:.2f} m/s are allowed" if moved > bound * step_s else ""

    # --- what is to be commanded ---

    def towards(self, targets: Pose, dt_s: float) -> Pose:
        """The next command, ``dt_s`` after the last one, on the way to targets: within ranges, speeds, acceleration."""
        wanted = {arm: self._follow(arm, target, dt_s) for arm, target in targets.items()}
        self._targets = dict(targets)
        if self._geometry is None or self.full_speed:
            return wanted
        for _ in range(SLOWED):
            moved, _ = self._geometry.farthest(self._placed, self._geometry.place(wanted))
            if moved <= LINK_SPEED * dt_s:
                break
            share = LINK_SPEED * dt_s / moved / BENT
            wanted = {a: self._last[a] + share * (wanted[a] - self._last[a]) for a in wanted}
        return wanted

    def _follow(self, arm: str, target: np.ndarray, dt_s: float) -> np.ndarray:
        """Along with a moving target, at rest where it rests: fast enough to get there, slow enough to brake there."""
        lower, upper = self._profile.arms[arm].limits().T
        last, velocity = self._last[arm], self._velocity[arm]
        target, before = np.clip(target, lower, upper), np.clip(self._targets.get(arm, target), lower, upper)
        along = target - before  # rad of the target's own in this step
        missing = np.abs(target - last - along)
        closing = np.sign(target - last - along) * np.minimum(missing / dt_s, np.sqrt(self._acceleration * missing))
        change = np.clip(along / dt_s + closing, -self._speed, self._speed) - velocity
        # All joints alike: between two velocities at which no link is too fast, none is.
        change *= min(1.0, self._acceleration * dt_s / max(float(np.abs(change).max()), 1e-9))
        return np.clip(last + (velocity + change) * dt_s, lower, upper)

    def problem(self, measured: Pose, commanded: Pose, dt_s: float) -> str:
        """Which limit the next command, ``dt_s`` after the last one, would break; empty if it may be sent.

        Call ``begin`` before the first one, and ask for every command that is sent, in order.
        """
        for arm, position in commanded.items():
            if text := self._joints(arm, position, dt_s):
                return text
        if self._geometry is not None:
            placed = self._geometry.place(commanded)
            moved, name = self._geometry.farthest(self._placed, placed)
            if moved > ROUNDING * LINK_SPEED * dt_s and not self.full_speed:
                return f"{name} would be commanded at {moved / dt_s:.2f} m/s, at most {LINK_SPEED} are: arm full_speed"
            if text := self._too_near(measured, commanded):
                return text
            self._placed = placed
        self._velocity = {arm: (position - self._last[arm]) / dt_s for arm, position in commanded.items()}
        self._last = dict(commanded)
        return ""

    def _joints(self, arm: str, position: np.ndarray, dt_s: float) -> str:
        about, velocity = self._profile.arms[arm], (position - self._last[arm]) / dt_s
        limits, before = about.limits(), self._velocity[arm]
        gained = np.where(velocity * before < 0, np.abs(velocity), np.abs(velocity) - np.abs(before)) / dt_s
        checks = (
            (np.maximum(limits[:, 0] - position, position - limits[:, 1]), 1e-9, "outside its range by", "rad"),
            (np.abs(velocity), ROUNDING * self._speed, "at", "rad/s"),
            (gained, ROUNDING * self._acceleration, "to speed up by", "rad/s^2"),
        )
        for size, most, what, unit in checks:
            if not size.max() <= most:  # nor what is not a number
                joint = about.joints[int(size.argmax())]
                return f"{joint} would be commanded {what} {size.max():.3g} {unit}, at most {most:.3g} are allowed"
        return ""

    def _too_near(self, measured: Pose, commanded: Pose) -> str:
        """What would come too near on the way; those that are too near already may only move away."""
        geometry = self._geometry
        farthest = max(float(np.abs(commanded[arm] - measured[arm]).max()) for arm in commanded)
        steps, way = max(1, math.ceil(farthest / PATH_RAD)), []
        for share in np.arange(1, steps + 1) / steps:
            geometry.place({arm: measured[arm] + share * (commanded[arm] - measured[arm]) for arm in commanded})
            way.append(geometry.distances())
        near = dict.fromkeys(pair for distances in way for pair in distances)
        if near:
            geometry.place(measured)
            near = geometry.distances(near)
        floors = {pair: self._floors.get(pair, min(pair.margin, here)) for pair, here in near.items()}
        for at, distances in enumerate(way, start=1):
            for pair, distance in distances.items():
                least = floors[pair] if at == steps else min(floors[pair], near[pair])
                least -= TOLERANCE if at < steps or least < pair.margin else 0.0
                if distance < least:
                    text = f"{distance * 1000:.0f} mm apart, {pair.margin * 1000:.0f} mm are kept"
                    return f"{geometry.names(pair)} would be {text}: {REMEDY}"
        ends = way[-1]
        self._floors = {
            pair: max(floor, min(pair.margin, ends.get(pair, pair.margin))) for pair, floor in floors.items()
        }
        return ""
