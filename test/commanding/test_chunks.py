"""Walking chunks."""

import numpy as np
import pytest

from pi05_progress_ros.commanding.chunks import Chunk, Timeline, limited


def ramp(start_s, offset=0.0, rows=11):
    return Chunk(start_s, 0.1, offset + np.arange(rows, dtype=float)[:, None] * 0.1)


def test_rows_are_joined_by_straight_lines():
    chunk = ramp(5.0)
    assert chunk.at(5.25) == pytest.approx(0.25)
    assert (chunk.at(0.0), chunk.at(99.0)) == (pytest.approx(0.0), pytest.approx(1.0))
    assert Chunk(0.0, 0.1, np.ones((1, 2))).at(3.0).tolist() == [1, 1]


def test_there_is_no_target_without_a_chunk_or_after_its_end():
    timeline = Timeline(0.2)
    assert timeline.target(0.0) is None
    timeline.add(ramp(0.0), 0.0)
    assert timeline.target(1.0) == pytest.approx(1.0)
    assert timeline.target(1.01) is None
    timeline.add(ramp(-5.0), 1.02)
    assert timeline.target(1.02) is None


def test_a_newer_chunk_takes_over_without_a_jump():
    timeline = Timeline(0.2)
    timeline.add(ramp(0.0), 0.0)
    before = timeline.target(0.3)
    timeline.add(ramp(0.2, offset=1.0), 0.3)
    times = np.arange(0.3, 0.8, 0.001)
    path = np.array([timeline.target(t)[0] for t in times])
    assert path[0] == pytest.approx(before[0])
    assert np.abs(np.diff(path)).max() < 0.006
    assert path[-1] == pytest.approx(ramp(0.2, offset=1.0).at(times[-1])[0])


def test_chunks_that_come_faster_than_they_blend_do_not_jump_either():
    timeline, rng, now, path = Timeline(0.2), np.random.default_rng(0), 0.0, []
    timeline.add(ramp(0.0), 0.0)
    for step in range(2000):
        now = step * 0.001
        if step % 70 == 50:
            timeline.add(ramp(now - 0.05, offset=rng.uniform(-1, 1)), now)
        path.append(timeline.target(now)[0])
    assert np.abs(np.diff(path)).max() < 0.015


def test_targets_stay_within_ranges_and_within_reach():
    ranges = np.array([[-1.0, 1.0], [0.0, 2.0]])
    target = limited(np.array([5.0, -5.0]), np.array([0.9, 0.1]), ranges, 2.0, 0.01)
    np.testing.assert_allclose(target, [0.92, 0.08])
    target = limited(np.array([0.905, 0.1]), np.array([0.9, 0.1]), ranges, 2.0, 0.01)
    np.testing.assert_allclose(target, [0.905, 0.1])
