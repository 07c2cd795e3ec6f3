"""What callers may rely on: every policy is whole, and one decision about answers that cannot be used."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

from pi05_progress.observation import PolicyOutput, RobotFrame
from pi05_progress.policy import OutputChecker, OutputError, Policy, completed

FRAME = RobotFrame({}, np.zeros(48, np.float32))
GOOD = PolicyOutput(np.zeros((3, 2), np.float32), 0.5, (0.4, 0.6), np.array([0.25, 0.75]))


class Least:
    """What code of one's own must have, and no more."""

    model_id, horizon, action_dt_s = "least", 3, 0.1

    def warm_up(self):
        self.warm = True

    def infer(self, frame, prompt):
        return dataclasses.replace(GOOD, progress=len(prompt) / 10)


def test_code_of_ones_own_with_what_is_required_is_a_whole_policy():
    own = Least()
    policy = completed(own)
    assert isinstance(policy, Policy)
    assert (policy.model_id, policy.horizon, policy.action_dt_s) == ("least", 3, 0.1)
    assert (policy.image_size, policy.batch_sizes, policy.remembers) == (None, (1,), True)
    policy.warm_up()
    assert own.warm
    [output] = policy.infer_prepared([policy.prepare(FRAME, "stack")])
    assert output.progress == policy.infer(FRAME, "stack").progress == 0.5
    policy.restart(7)
    policy.close()


def test_what_ones_own_code_has_beyond_that_is_used():
    class More(Least):
        def restart_noise(self, seed):
            self.seed = seed

        def close(self):
            self.closed = True

    own = More()
    policy = completed(own)
    policy.restart(7)
    policy.close()
    assert (own.seed, own.closed) == (7, True)


def test_a_whole_policy_is_left_as_it_is():
    whole = completed(Least())
    assert completed(whole) is whole


def test_a_policy_of_ones_own_is_made_by_the_policy_node_without_loading_jax():
    program = """
import sys, types
import pi05_progress_ros.policy_node
from pi05_progress.make_policy import make_policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.profile import RobotProfile
sys.modules["mine"] = types.SimpleNamespace(made=lambda profile: types.SimpleNamespace(infer=None))
make_policy(RobotProfile.load("teleavatar"), PolicyOptions(policy="mine:made"))
print("jax" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == "False"


def checked(output, said=None):
    return OutputChecker((said if said is not None else []).append).checked(output, 3, 2)


@pytest.mark.parametrize(
    "usable",
    [GOOD, dataclasses.replace(GOOD, progress=0.0, progress_belief=None), dataclasses.replace(GOOD, progress=0.3)],
)
def test_a_good_answer_is_passed_on_as_it_is(usable):
    said = []
    assert checked(usable, said) is usable
    assert said == []


@pytest.mark.parametrize(
    ("actions", "problem"),
    [
        (np.zeros((2, 2)), r"actions are \(2, 2\), expected \(3, 2\)"),
        (np.zeros((3, 3)), r"actions are \(3, 3\), expected \(3, 2\)"),
        (np.full((3, 2), np.inf), "actions are not finite"),
        (np.full((3, 2), np.nan), "actions are not finite"),
    ],
)
def test_actions_that_cannot_be_used_refuse_the_answer(actions, problem):
    with pytest.raises(OutputError, match=f"the policy's {problem}"):
        checked(dataclasses.replace(GOOD, actions=actions))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"progress": np.nan}, "not finite"),
        ({"progress": 1.5}, "outside"),
        ({"progress": -0.1}, "outside"),
        ({"progress_interval": (0.4, np.inf)}, "not finite"),
        ({"progress_interval": (-0.1, 0.6)}, "outside"),
        ({"progress_interval": (0.6, 0.4)}, "ends before it begins"),
        ({"progress_belief": np.array([np.nan, 1.0])}, "not probabilities"),
        ({"progress_belief": np.array([-0.5, 1.5])}, "not probabilities"),
        ({"progress": None, "progress_interval": None}, "no progress head"),
    ],
)
def test_a_progress_that_cannot_be_used_is_unknown_and_the_actions_go_on(changes, reason):
    said = []
    checker = OutputChecker(said.append)
    for _ in range(3):
        output = checker.checked(dataclasses.replace(GOOD, **changes), 3, 2)
        assert (output.progress, output.progress_interval, output.progress_belief) == (None, None, None)
        assert output.actions is GOOD.actions
        assert reason in checker.reason
    assert len(said) == 1 and reason in said[0]
    checker.checked(GOOD, 3, 2)
    assert checker.reason == ""


def test_the_same_reason_with_other_numbers_is_said_once():
    said = []
    checker = OutputChecker(said.append)
    for progress in (1.5, 1.6, np.nan, 1.7, -3.0):
        checker.checked(dataclasses.replace(GOOD, progress=progress), 3, 2)
    assert len(said) == 2
    assert "progress 1.5" in said[0] and "progress nan" in said[1]
