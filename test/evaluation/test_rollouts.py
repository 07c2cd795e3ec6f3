"""Checkpoints compared by recorded goals: judged or declared, paired by start, in a table, a file and a page."""

import json
import sys

import numpy as np
import pytest
from convert_recordings import START, Message, event, make, write_bag

from pi05_progress.robots.episode_notes import goal_note
from training.evaluate_rollouts import main
from training.evaluation.bootstrap import paired

S = 10**9


def goal(name, at_s, seconds, model, reason, outcome=0, judged=None, interventions=0, place=None, truth=None):
    """The messages of one goal; ``judged`` is the operator's outcome, ``truth`` the simulation's."""
    made, begin, end = [], START + at_s * S, START + (at_s + seconds) * S
    if place is not None:
        point = make("geometry_msgs/msg/Point", x=place, y=0.0, z=0.0)
        turn = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
        pose = make("geometry_msgs/msg/Pose", position=point, orientation=turn)
        made.append(
            Message("/sim/object_poses", "geometry_msgs/msg/PoseArray", begin - 1, begin - 1, {"poses": [pose]})
        )
    made.append(event(0, begin, name))
    made.append(event(1, end, name, outcome, goal_note(reason, model, interventions, "so\nit ended")))
    if truth is not None:
        decided = event(1, end - 1, "sim", truth)
        made.append(Message("/sim/events", decided.type, decided.stamp, decided.received, decided.fields))
    if judged is not None:
        made.append(event(1, end + S, name, judged, "judged: seen"))
    return made


@pytest.fixture
def rollouts(tmp_path):
    """Two checkpoints with goals from the same two starts, in simulation, and one that the operator judged."""
    write_bag(
        tmp_path / "runs/one",
        [
            *goal("a1", 0, 10, "old", "TIMED_OUT", truth=2, place=0.1),
            *goal("a2", 20, 20, "old", "SUCCEEDED", 1, truth=2, place=0.2, interventions=1),
            *goal("a3", 60, 6, "old", "TIMED_OUT", judged=1, place=0.3),
            event(0, START + 90 * S, "a4"),  # cut off
        ],
    )
    write_bag(
        tmp_path / "runs/two",
        [
            *goal("b1", 0, 10, "new/100", "SUCCEEDED", 1, truth=1, place=0.1),
            *goal("b2", 20, 14, "new/100", "SUCCEEDED", 1, truth=1, place=0.2),
            *goal("b3", 60, 12, "new/100", "CANCELED", place=0.9),
        ],
    )
    return tmp_path / "runs"


def evaluate(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate_rollouts", *map(str, arguments)])
    return main()


def test_checkpoints_are_compared_by_what_really_happened_from_the_same_starts(rollouts, tmp_path, monkeypatch, capsys):
    numbers, page = tmp_path / "rollouts.json", tmp_path / "rollouts.html"
    assert evaluate(monkeypatch, "--rollouts", rollouts, "--json", numbers, "--output", page) == 0
    new, old = json.loads(numbers.read_text())["checkpoints"]
    assert (new["checkpoint"], old["checkpoint"]) == ("new/100", "old")
    assert (new["success"]["value"], new["success"]["episodes"]) == (1.0, 2)
    assert new["success"]["low"] == pytest.approx(0.342, abs=1e-3), "Wilson's interval of 2 of 2"
    assert old["success"]["value"] == pytest.approx(1 / 3)
    assert (new["judged"], old["judged"]) == (2, 3)
    assert (old["false_succeeded"], old["missed"]) == (1, 1)
    assert old["interventions_per_hour"] == pytest.approx(3600 / 36)
    assert (new["seconds_to_success"], old["seconds_to_success"]) == (12, 6)
    assert (old["better"]["value"], old["better"]["episodes"]) == (-1.0, 2), "of two starts that both have"
    assert new["better"]["value"] is None
    assert "false" in (said := capsys.readouterr().out) and "old" in said
    assert page.read_text().count("<tr>") == 2 + 1 + 6 + 1
    assert evaluate(monkeypatch, "--rollouts", rollouts, "--json", numbers) == 1, "files are not replaced"


def test_recordings_without_goals_are_refused(tmp_path, monkeypatch, capsys):
    write_bag(tmp_path / "bag", [event(0, START), event(1, START + S)])
    assert evaluate(monkeypatch, "--rollouts", tmp_path) == 1
    assert "no goal of RunTask that has ended" in capsys.readouterr().err


def test_paired_differences_have_the_interval_of_agresti_and_min():
    of = paired(np.array([1.0, 1.0, 0.0, -1.0]))
    assert of.value == pytest.approx(0.25)
    assert (of.low, of.high) == (pytest.approx(-0.473, abs=1e-3), pytest.approx(0.806, abs=1e-3))
    assert paired(np.zeros(0)).value is None


def test_differences_between_means_of_repeated_starts_count_as_much_as_they_are():
    of = paired(np.full(100, 0.1))
    assert of.low < of.value < of.high < 0.2
