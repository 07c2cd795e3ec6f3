"""Policies with known behaviour for tests of the node; named by its parameter ``policy``."""

import time
import zlib
from pathlib import Path

import numpy as np

from pi05_progress.observation import PolicyOutput
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import state_to_model

LAYOUT = RobotProfile.load("teleavatar").layout
PERIOD_S, AMPLITUDE = 4.0, 0.15  # of the known trajectory, s and rad
EFFORTS = (-0.3, 0.2)  # of the grippers, left and right, N m
HORIZON, DT_S = 30, 1 / 30
SWING_UNLESS = "swing unless there is the file "  # with it there is no answer
WAIT_FOR = "wait for the file "  # the instruction to answer, far away, once there is the file


def course(home, times):
    """The known trajectory (n, 14): two joints of each arm swing about where they were; clock time decides where."""
    swing = AMPLITUDE * (1 - np.cos(2 * np.pi * np.asarray(times) / PERIOD_S)) / 2
    arms = np.repeat(np.asarray(home)[None], len(swing), axis=0)
    arms[:, [1, 3]] -= swing[:, None]
    arms[:, [8, 10]] += swing[:, None]
    return arms


class ByTask:
    """Does what the instruction says; calls are counted from the last change of it."""

    model_id, horizon, action_dt_s = "scripted", HORIZON, DT_S

    def __init__(self):
        self.home, self.task, self.calls = None, "", 0

    def warm_up(self):
        pass

    def restart_noise(self, seed):
        print(f"noise of seed {seed}", flush=True)

    def infer(self, frame, prompt):
        if self.home is None:
            self.home = state_to_model(frame.state, LAYOUT)
        self.calls = self.calls + 1 if prompt == self.task else 1
        self.task = prompt
        stamp_s = max(ns for key, ns in frame.stamps_ns.items() if "arm" not in key and "gripper" not in key) * 1e-9
        times = stamp_s + np.arange(HORIZON) * DT_S
        arms, progress, shape = np.repeat(self.home[None], HORIZON, axis=0), 0.5, (HORIZON, 16)
        match prompt:
            case "swing":
                arms = course(self.home, times)
            case "go far":
                arms = arms + 0.9
            case "rise":
                progress = min(1.0, self.calls / 60)
            case "raise":
                raise RuntimeError("the device is gone")
            case "nan actions":
                arms = arms * np.nan
            case "nan progress":
                arms, progress = course(self.home, times), float("nan")
            case "progress of 1.5":
                arms, progress = course(self.home, times), 1.5
            case "short chunk":
                shape = (3, 16)
            case "swing slowly":
                time.sleep(1.2)
                arms = course(self.home, times)
        if prompt.startswith(SWING_UNLESS):
            arms = course(self.home, times)
            while Path(prompt.removeprefix(SWING_UNLESS)).exists():
                time.sleep(0.02)
        if prompt.startswith(WAIT_FOR):
            gate = Path(prompt.removeprefix(WAIT_FOR))
            while not gate.exists():
                time.sleep(0.02)
            arms = arms + 0.9
        actions = np.zeros((HORIZON, 16), np.float32)
        actions[:, :7], actions[:, 8:15] = arms[:, :7], arms[:, 7:]
        actions[:, [7, 15]] = EFFORTS
        return PolicyOutput(actions[: shape[0]], progress, timing={"transforms": 0.0, "model": 0.0})


def by_task(_):
    """See ``ByTask``."""
    return ByTask()


def never_ready(_):
    """Is never loaded."""
    while True:
        time.sleep(1.0)


class Fingerprint(ByTask):
    """Progress is drawn from every bit of a frame: it tells two frames apart that differ anywhere."""

    model_id = "fingerprint"

    def infer(self, frame, prompt):
        found = zlib.crc32(np.ascontiguousarray(frame.state, np.float32))
        for key in sorted(frame.images):
            found = zlib.crc32(np.ascontiguousarray(frame.images[key]), found)
        actions, timing = np.zeros((HORIZON, 16), np.float32), {"transforms": 0.0, "model": 0.0}
        return PolicyOutput(actions, found / 2**32, timing=timing)


def fingerprint(_):
    """See ``Fingerprint``."""
    return Fingerprint()
