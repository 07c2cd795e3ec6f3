"""Policies for servers that tests start as processes; named by their option ``--policy``."""

import time

import numpy as np
from node_policies import DT_S, EFFORTS, HORIZON, LAYOUT, course

from pi05_progress.observation import PolicyOutput
from pi05_progress.units.transforms import state_to_model


class Swing:
    """The known trajectory of ``node_policies``, by the wall clock: requests have no stamps."""

    model_id, horizon, action_dt_s = "scripted", HORIZON, DT_S

    def __init__(self):
        self.home = None

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        if self.home is None:
            self.home = state_to_model(frame.state, LAYOUT)
        arms = course(self.home, time.time() + np.arange(HORIZON) * DT_S)
        actions = np.zeros((HORIZON, 16), np.float32)
        actions[:, :7], actions[:, 8:15] = arms[:, :7], arms[:, 7:]
        actions[:, [7, 15]] = EFFORTS
        return PolicyOutput(actions, 0.5, (0.4, 0.6), timing={"transforms": 0.0, "model": 0.0})


def swing(_):
    """See ``Swing``."""
    return Swing()


class Leaving(Swing):
    """Leaves the program when it is asked, as code does that takes the process for its own."""

    def infer(self, frame, prompt):
        raise SystemExit("the driver gave up")


def leaving(_):
    """See ``Leaving``."""
    return Leaving()
