"""An expert that plans from any state of robot and objects: what a person would do from here, over the next second.

It has no memory: equal states get equal plans, after a drop, a bump or in the midst of what a policy has begun. So its
plans are labels for states that other policies, or disturbances, lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pi05_progress.observation import PolicyOutput, RobotFrame
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import RobotProfile

from ...commanding.command_rules import CommandSettings
from ..physics.scene import FINGER_TRAVEL, arm_table, table_top_z
from ..physics.tasks.base import Pick, fingers_touch
from ..physics.world import World
from .kinematics import GRASP_HEIGHT, hand_poses, reach

PLANNER = "planner"  # its name as a policy
ROWS, ROW_S = 14, 0.1
STEP_S = 0.05  # of the motion that is imagined
LEAD_S = 0.14  # how far commands run ahead of the motion: the arms' lag
HAND_SPEED = 0.22  # m/s
APPROACH = 3.0  # 1/s: speed per distance that is left, so that the hand comes to rest gently
SLOWEST = 0.05  # m/s
JOINT_SPEED = 0.7  # rad/s, for what a hand's way asks of joints
FASTEST = CommandSettings.max_joint_speed  # rad/s, for this and the turn to the usual posture together
CLEARANCE = 0.05  # m from the top of things to the grasp point of a hand that travels
WALL = 0.04  # m: the least height of what may stand on the table
OPEN = 0.031  # m of finger travel: open enough to reach around an object
SETTLE_S = 0.15  # how long the hand rests before its fingers move
NEAR = np.array([0.006, 0.008, 0.007])  # m: where fingers may close or open
GRIP_S = 0.2  # from closing to lifting


class PlannedChunk(NamedTuple):
    """What to command from now on: row k is due ``k ROW_S`` from now."""

    arms: np.ndarray  # (k, 14) joint targets, left arm then right, rad
    grippers: np.ndarray  # (k, 2) command numbers of the left and the right gripper, 0 closed .. 1 open


@dataclass
class _Scene:
    """What is imagined of the working hand and the objects, at a moment of the plan; lengths in m."""

    hand: np.ndarray
    opening: float
    held: str | None
    objects: dict[str, np.ndarray]
    picks: list[Pick]
    rest_s: float  # for how long the hand has been where its fingers are to move
    grip_s: float = 0.0  # for how long the fingers have been closing around the object


class _Intent(NamedTuple):
    """What is done next: where the hand is to be in the end and on the way there, and the gripper's command number."""

    goal: np.ndarray
    point: np.ndarray
    grip: float


class PlannerPolicy(Policy):
    """Plans the task from the truth about the world that it drives; used by the thread that steps the world.

    In the place of a policy it shows what is possible for one that sees everything, and is never wrong: frames and
    instructions are not looked at.
    """

    model_id, horizon, action_dt_s = PLANNER, ROWS, ROW_S

    def __init__(self, profile: RobotProfile, world: World | None = None) -> None:
        self._layout, self._world = profile.layout, world

    def warm_up(self) -> None:
        """Solve the postures of both arms."""
        for side in arm_table().sides:
            reach(side)

    def watch(self, world: World) -> None:
        """Look at this world from now on; the closed loop calls it with its own."""
        self._world = world

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """The plan from the world's present state; its progress is unknown."""
        plan, layout, sides = self.plan(), self._layout, arm_table().sides
        actions = np.zeros((ROWS, layout.action_size), np.float32)
        for side, joints, grip in zip(sides, np.split(plan.arms, len(sides), 1), plan.grippers.T, strict=True):
            actions[:, layout.arms[side]] = joints
            actions[:, layout.grippers[side]] = layout.curves[side].effort(grip)
        return PolicyOutput(actions, None)

    def plan(self) -> PlannedChunk:
        """Targets from the present state on."""
        world, side = self._world, self._world.task.side
        arm, joints = reach(side), world.arm_state(side)
        scene = self._look()
        places = [scene.hand]
        grips = []
        away = joints.position - arm.roughly(scene.hand)  # from the posture usual there; it is made good on the way
        farthest = float(np.abs(away).max())
        rate, left = JOINT_SPEED / max(farthest, 0.15), [1.0]
        for _ in range(round(((ROWS - 1) * ROW_S + LEAD_S) / STEP_S) + 1):
            intent = self._intent(scene)
            joint_speed = FASTEST - rate * farthest if left[-1] else JOINT_SPEED
            self._move(scene, intent, max(0.0, 1 - left[-1] * farthest / 0.5), joint_speed)
            self._grip(scene, intent)
            places.append(scene.hand)
            grips.append(intent.grip)
            left.append(max(0.0, left[-1] - rate * STEP_S))
        times = np.arange(ROWS) * ROW_S
        steps = (times + LEAD_S) / STEP_S
        path = np.stack([np.interp(steps, np.arange(len(places)), axis) for axis in np.transpose(places)], 1)
        working = arm.joints(path) + np.interp(steps, np.arange(len(left)), left)[:, None] * away
        at = np.round(times / STEP_S).astype(int)
        arms, grippers = [], []
        for name in world.sides:
            here, home = world.arm_state(name).position, world.home(name)
            most = JOINT_SPEED * (times + LEAD_S)[:, None]
            arms.append(working if name == side else here + np.clip(home - here, -most, most))
            grippers.append(np.array(grips)[at] if name == side else np.ones(ROWS))
        return PlannedChunk(np.concatenate(arms, 1), np.stack(grippers, 1))

    def _look(self) -> _Scene:
        world, side = self._world, self._world.task.side
        state, fingers = world.arm_state(side), world.gripper_state(side)
        pose = hand_poses(side, state.position[None])
        speed = np.linalg.norm(pose.jacobian[0, :3] @ state.velocity)
        objects = {name: at[:3].copy() for name, at in world.object_poses().items()}
        held = next((name for name in objects if fingers_touch(world.model, world.data, side, name)), None)
        picks = list(world.task.picks(world.model, world.data))
        return _Scene(pose.position[0], fingers.position, held, objects, picks, SETTLE_S if speed < 0.03 else 0.0)

    # --- what to do from a scene ---

    def _intent(self, scene: _Scene) -> _Intent:
        pick, hand = scene.picks[0] if scene.picks else None, scene.hand
        if scene.held is not None:
            return self._carry(scene, pick)
        if pick is None:
            up = np.array([*hand[:2], table_top_z() + self._top(scene) + CLEARANCE])
            return _Intent(up, up if scene.opening > OPEN else hand, 1.0)
        goal = scene.objects[pick.name] + [0, 0, GRASP_HEIGHT]
        off, closing = np.abs(hand - goal), 0.012 < scene.opening <= OPEN
        if (off < NEAR * (2 if closing else 1)).all() and scene.opening > 0.012:
            return _Intent(goal, goal, 0.0 if closing or scene.rest_s >= SETTLE_S else 1.0)
        if scene.opening <= OPEN:
            return _Intent(goal, hand, 1.0)
        above = 6 * (np.hypot(off[0], 0.5 * off[1]) - 0.008)  # open fingers reach around it, or are above it
        return _Intent(goal, self._towards(scene, goal, above), 1.0)

    def _carry(self, scene: _Scene, pick: Pick | None) -> _Intent:
        grasp = np.clip(scene.hand - scene.objects[scene.held], -0.015, 0.015)
        if pick is None or pick.name != scene.held:
            goal = self._free_place(scene) + grasp
        elif pick.release_height is None:  # it is to be held there
            return _Intent(pick.target + grasp, pick.target + grasp, 0.0)
        else:
            goal = pick.target + grasp + [0, 0, pick.release_height]
        off, opening = np.abs(scene.hand - goal), scene.opening > self._world.task.half + 0.001
        if (off < NEAR).all():
            return _Intent(goal, goal, 1.0 if opening or scene.rest_s >= SETTLE_S else 0.0)
        return _Intent(goal, self._towards(scene, goal, 0.8 * (np.hypot(*off[:2]) - 0.005)), 0.0)

    def _towards(self, scene: _Scene, goal: np.ndarray, above: float) -> np.ndarray:
        """The next point on the way to a goal: not lower than ``above`` it, nor far from it than all that stands there.

        A smooth funnel rather than up, over and down, which lag and delay turn into a circle.
        """
        step, offset = HAND_SPEED * STEP_S, goal[:2] - scene.hand[:2]
        distance = float(np.hypot(*offset))
        travel = max(table_top_z() + self._top(scene) + CLEARANCE, goal[2] + 0.02)
        travel = max(min(travel, reach(self._world.task.side).ceiling(scene.hand)), goal[2])  # lower beside the robot
        lowest = min(goal[2] + max(0.0, above), travel) if distance < 0.06 else travel
        sidewise = float(np.clip(1 - (lowest - scene.hand[2]) / 0.02, 0, 1)) * min(1.0, step / max(distance, 1e-9))
        return scene.hand + [*(sidewise * offset), np.clip(lowest - scene.hand[2], -step, step)]

    def _top(self, scene: _Scene) -> float:
        """How high above the table things reach that may be in the way, m."""
        half, places = self._world.task.half, [place for name, place in scene.objects.items() if name != scene.held]
        heights = [place[2] + half - table_top_z() for place in places]
        return max([WALL, *heights])

    def _free_place(self, scene: _Scene) -> np.ndarray:
        """(3,) the nearest place on the table where what is held can be put down."""
        others = [place for name, place in scene.objects.items() if name != scene.held]
        return self._world.task.free_place(scene.objects[scene.held], others) + [0, 0, 0.002]

    # --- how the imagined scene changes ---

    def _move(self, scene: _Scene, intent: _Intent, share: float, joint_speed: float) -> None:
        way, arm = intent.point - scene.hand, reach(self._world.task.side)
        distance = float(np.linalg.norm(way))
        if distance < 1e-6:
            return
        speed = min(HAND_SPEED, SLOWEST + APPROACH * float(np.linalg.norm(intent.goal - scene.hand))) * share
        way = way * min(1.0, speed * STEP_S / distance)
        fastest = np.abs(arm.roughly(scene.hand + way) - arm.roughly(scene.hand)).max() / STEP_S
        way = way * float(np.clip(joint_speed / max(fastest, 1e-9), 0.1, 1))
        scene.hand = scene.hand + way
        if scene.held is not None:
            scene.objects[scene.held] = scene.objects[scene.held] + way

    def _grip(self, scene: _Scene, intent: _Intent) -> None:
        near = bool((np.abs(scene.hand - intent.goal) < NEAR).all())
        scene.rest_s = scene.rest_s + STEP_S if near else 0.0
        scene.opening += 0.6 * (intent.grip * FINGER_TRAVEL - scene.opening)
        pick = scene.picks[0] if scene.picks else None
        if scene.held is not None and scene.opening > self._world.task.half + 0.004:
            if pick is not None and pick.name == scene.held:
                scene.objects[scene.held] = pick.target.copy()
                scene.picks = scene.picks[1:]
            scene.held = None
        elif scene.held is not None or (near and intent.grip < 0.5):
            scene.opening = max(scene.opening, self._world.task.half)
            scene.grip_s += STEP_S
            if scene.held is None and scene.grip_s >= GRIP_S:
                scene.held, scene.grip_s = pick.name, 0.0
