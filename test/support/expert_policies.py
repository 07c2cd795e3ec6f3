"""The scripted expert as a policy, for goals in the live simulation; named by the node's parameter ``policy``."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pi05_progress.observation import PolicyOutput
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.sim.expert.expert import Expert, apply
from pi05_progress_ros.sim.physics.world import World

LAYOUT = RobotProfile.load("teleavatar").layout
TASK, SEED = "stack_cubes", 3
HORIZON, DT_S, STEPS = 30, 1 / 30, 5  # physics steps between two commands of the expert
START_S, SHARE = 3.0, 0.8  # the arms are moved so long after the first picture, at a share of the expert's speed


WORDS = {"lift the cube": "lift_cube", "stack the cubes": "stack_cubes"}  # the instructions that ``Experts`` know
SWITCH = "EXPERTS_SWITCH"  # environment variable: path of a file that says how ``Experts`` fail; empty: not at all
NEAR_RAD = 0.25  # of the course: only then they go on


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
        return answer(self.course, times * SHARE / DT_S)


def answer(course, rows):
    """Actions at rows of the course, and as progress the share of it that the first of them is at."""
    rows = np.clip(rows, 0, len(course) - 1)
    low = rows.astype(int)
    high, part = np.minimum(low + 1, len(course) - 1), (rows - low)[:, None]
    actions = (1 - part) * course[low] + part * course[high]
    return PolicyOutput(actions.astype(np.float32), float(rows[0] / (len(course) - 1)))


class Experts:
    """The course of the task that the instruction names, anew with every goal; it waits for arms that are elsewhere."""

    model_id, horizon, action_dt_s = "experts", HORIZON, DT_S

    def __init__(self):
        self.courses = {words: expert_course(task, SEED) for words, task in WORDS.items()}
        self.switch = Path(os.environ[SWITCH])
        self.restart_noise(0)

    def warm_up(self):
        pass

    def restart_noise(self, _):
        self.row, self.seen_s = -START_S / 2 * SHARE / DT_S, None

    def infer(self, frame, prompt):
        if (fault := self.switch.read_text()) == "raise":
            raise RuntimeError("the device is gone")
        while fault == "hang" and self.switch.read_text() == fault:
            time.sleep(0.02)
        course, arms = self.courses[prompt], LAYOUT.arm_columns
        now_s = max(ns for key, ns in frame.stamps_ns.items() if "arm" not in key and "gripper" not in key) * 1e-9
        at = course[int(np.clip(self.row, 0, len(course) - 1))]
        if self.seen_s is not None and np.abs(LAYOUT.positions(frame.state) - at)[arms].max() < NEAR_RAD:
            self.row += np.clip(now_s - self.seen_s, 0, 0.5) * SHARE / DT_S
        self.seen_s = now_s
        output = answer(course, self.row + np.arange(HORIZON) * SHARE)
        return replace(output, actions=output.actions * np.nan) if fault == "nan" else output


def experts(_):
    """See ``Experts``."""
    return Experts()


def expert(_):
    """See ``Expertise``."""
    return Expertise()
