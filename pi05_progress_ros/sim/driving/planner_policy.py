"""The expert's planner in the place of a policy: what is possible for one that sees everything, and is never wrong."""

from __future__ import annotations

import numpy as np

from pi05_progress.observation import PolicyOutput, RobotFrame
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import RobotProfile

from ..expert.kinematics import reach
from ..expert.planner import ROW_S, ROWS, Planner
from ..physics.scene import arm_table
from ..physics.world import World

PLANNER = "planner"  # its name as a policy


class PlannerPolicy(Policy):
    """Plans from the truth about the world that it drives; frames and instructions are not looked at."""

    model_id, horizon, action_dt_s = PLANNER, ROWS, ROW_S

    def __init__(self, profile: RobotProfile) -> None:
        self._layout = profile.layout
        self._planner: Planner | None = None

    def warm_up(self) -> None:
        """Solve the postures of both arms."""
        for side in arm_table().sides:
            reach(side)

    def watch(self, world: World) -> None:
        """Look at this world from now on; the closed loop calls it with its own."""
        self._planner = Planner(world)

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """The plan from the world's present state; its progress is unknown."""
        plan, layout = self._planner.plan(), self._layout
        actions = np.zeros((ROWS, layout.action_size), np.float32)
        sides = arm_table().sides
        for side, joints, grip in zip(sides, np.split(plan.arms, len(sides), 1), plan.grippers.T, strict=True):
            actions[:, layout.arms[side]] = joints
            actions[:, layout.grippers[side]] = layout.curves[side].effort(grip)
        return PolicyOutput(actions, None)
