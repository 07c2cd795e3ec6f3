"""The scripted expert as a policy, for goals in the live simulation; named by the node's parameter ``policy``."""

import numpy as np

from pi05_progress.observation import PolicyOutput
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.sim.expert.expert import Expert, apply
from pi05_progress_ros.sim.physics.world import World

LAYOUT = RobotProfile.load("teleavatar").layout
TASK, SEED = "stack_cubes", 3
HORIZON, DT_S, STEPS = 30, 1 / 30, 5  # physics steps between two commands of the expert
START_S, SHARE = 3.0, 0.8  # the arms are moved so long after the first picture, at a share of the expert's speed


def expert_course(task, seed):
    """The expert's commands (n, 16) in rad and N m every 1/30 s, from a world of its own; the task is done there."""
    world = World(task, seed)
    expert, rows = Expert(world, seed), []
    while not expert.finished:
        command = expert.command()
        apply(world, command)
        if len(rows) * DT_S <= world.time_s:
            row = np.zeros(16)
            for side, columns in LAYOUT.arms.items():
                row[columns] = getattr(command, side)
                row[LAYOUT.grippers[side]] = LAYOUT.curves[side].effort(getattr(command, f"{side}_gripper"))
            rows.append(row)
        world.step(STEPS)
    assert world.task_status().outcome == "success"
    return np.array(rows)


class Expertise:
    """Repeats the course from where it is first asked on; its progress is the share of it that was gone through."""

    model_id, horizon, action_dt_s = "expert", HORIZON, DT_S

    def __init__(self):
        self.course, self.began_s = expert_course(TASK, SEED), None

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        now_s = max(ns for key, ns in frame.stamps_ns.items() if "arm" not in key and "gripper" not in key) * 1e-9
        self.began_s = now_s if self.began_s is None else self.began_s
        times = now_s - self.began_s - START_S + np.arange(HORIZON) * DT_S
        rows = np.clip(times * SHARE / DT_S, 0, len(self.course) - 1)
        low = rows.astype(int)
        high, part = np.minimum(low + 1, len(self.course) - 1), (rows - low)[:, None]
        actions = (1 - part) * self.course[low] + part * self.course[high]
        progress = float(np.clip(rows[0] / (len(self.course) - 1), 0, 1))
        return PolicyOutput(actions.astype(np.float32), progress)


def expert(_):
    """See ``Expertise``."""
    return Expertise()
