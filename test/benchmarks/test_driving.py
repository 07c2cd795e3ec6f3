"""Closed loop against node: finished episodes are kept, and the difference of pairs has the interval it should."""

import json
import sys

import numpy as np
import pytest
from places import ROOT

from pi05_progress.errors import UserError

sys.path.append(str(ROOT / "benchmarks"))

from driving import CLOSED, LIVE, pooled, read, table


def test_the_difference_is_pooled_over_pairs_with_its_interval():
    found = {(side, "stack_cubes", seed): "success" for side in (CLOSED, LIVE) for seed in range(40)}
    found |= {(LIVE, "stack_cubes", seed): "failure" for seed in (3, 4)} | {(CLOSED, "stack_cubes", 5): "failure"}
    lines = table(found, ("stack_cubes",), range(40))
    assert lines[1].split() == ["stack_cubes", "39/40", "38/40"]
    assert lines[2] == "node minus closed loop, 40 pairs: -2.5 points, 95 % [-11.7, +6.9]"


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = rng.choice([1.0, 0.0, -1.0], 80, p=[0.1, 0.85, 0.05])
        low, high = (float(end) for end in pooled(drawn)[1].strip("[]").split(","))
        held += low <= 5 <= high
    assert 0.92 <= held / 400 <= 0.99


def test_finished_episodes_are_kept_and_never_mixed_with_those_of_other_settings(tmp_path):
    path, settings = tmp_path / "driving.jsonl", {"noise": "zero"}
    assert read(path, settings) == {}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"side": LIVE, "task": "stack_cubes", "seed": 7, "outcome": "success"}) + "\n")
    assert read(path, settings) == {(LIVE, "stack_cubes", 7): "success"}
    with pytest.raises(UserError, match="has episodes of other settings"):
        read(path, {"noise": "fresh"})
