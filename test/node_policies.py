"""Policies with known behaviour for tests of the node; named by its parameter ``policy``."""

import time

import numpy as np

from pi05_progress.observation import PolicyOutput
from pi05_progress.transforms import state_to_model

PERIOD_S, AMPLITUDE = 4.0, 0.15  # of the known trajectory


class Scripted:
    """Answers from a function of the frame; ``started`` counts from the first call."""

    model_id, horizon, action_dt_s = "scripted", 30, 1 / 30

    def __init__(self, act, progress=lambda calls: 0.5):
        self.act, self.progress, self.calls, self.home = act, progress, 0, None

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        if self.home is None:
            self.home = state_to_model(frame.state)
        self.calls += 1
        stamp_s = max(ns for key, ns in frame.stamps_ns.items() if "arm" not in key and "gripper" not in key) * 1e-9
        actions = np.zeros((30, 16), np.float32)
        arms = self.act(self, stamp_s + np.arange(30) / 30)
        actions[:, :7], actions[:, 8:15] = arms[:, :7], arms[:, 7:]
        return PolicyOutput(actions, self.progress(self.calls), timing={"transforms": 0.0, "model": 0.0})


def course(home, times):
    """The known trajectory (n, 14): two joints of each arm swing about where they were; clock time decides where."""
    swing = AMPLITUDE * (1 - np.cos(2 * np.pi * np.asarray(times) / PERIOD_S)) / 2
    arms = np.repeat(np.asarray(home)[None], len(swing), axis=0)
    arms[:, [1, 3]] -= swing[:, None]
    arms[:, [8, 10]] += swing[:, None]
    return arms


def still(_):
    """Stays where it was first."""
    return Scripted(lambda self, times: np.repeat(self.home[None], len(times), axis=0))


def swinging(_):
    """The known trajectory."""
    return Scripted(lambda self, times: course(self.home, times))


def rising(_):
    """Progress goes up by 0.01 per call."""
    return Scripted(lambda self, times: np.repeat(self.home[None], 30, axis=0), lambda calls: min(1.0, calls / 100))


def raising(_):
    """Fails in every call."""

    def fail(self, times):
        raise RuntimeError("the device is gone")

    return Scripted(fail)


def nan_actions(_):
    """Fine for two seconds, then numbers that are not finite."""
    return Scripted(lambda self, times: course(self.home, times) * (np.nan if self.calls > 20 else 1.0))


def nan_progress(_):
    """Progress is not a number."""
    return Scripted(lambda self, times: np.zeros((30, 14)), lambda calls: float("nan"))


def slow(_):
    """Takes ten seconds in its third call."""

    def act(self, times):
        if self.calls == 3:
            time.sleep(10)
        return np.repeat(self.home[None], 30, axis=0)

    return Scripted(act)
