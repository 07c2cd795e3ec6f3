"""Walking chunks."""

import numpy as np
import pytest

from pi05_progress_ros.commanding.chunks import Chunk, Timeline


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


def level(start_s, value):
    return Chunk(start_s, 0.1, np.full((11, 1), float(value)))


def in_force(timeline, until_s, period_s=0.1, latency_s=0.1, stall_s=np.inf):
    """Which chunk is in force at every hundredth of a second, when chunk i is of the frame at i * period_s."""
    values, asked = {}, 0
    for tick in range(round(until_s * 100)):
        now = tick / 100
        while asked * period_s + latency_s <= now + 1e-9 and asked * period_s < stall_s:
            timeline.add(level(asked * period_s, asked), now)
            asked += 1
        target = timeline.target(now)
        values[tick] = None if target is None else float(target[0])
    return values


def test_a_chunk_is_carried_out_for_as_long_as_asked_and_then_the_newest_takes_over():
    values = in_force(Timeline(0.0, execute_s=0.5), 2.0)
    changes = [tick for tick in range(11, 200) if values[tick] != values[tick - 1]]
    assert np.diff(changes).tolist() == pytest.approx([50] * (len(changes) - 1), abs=2)  # hundredths of a second
    assert values[10] == 0 and values[changes[0]] == 5  # of the frame that was 0.1 s old, as at 10 Hz without it
    assert in_force(Timeline(0.0), 2.0)[100] == 9  # by default every chunk takes over at once


def test_a_chunk_that_comes_a_little_early_is_not_left_waiting_for_the_next():
    timeline = Timeline(0.0, execute_s=0.5)
    for number, at_s in enumerate((0.1, 0.21, 0.30, 0.41, 0.49, 0.59)):
        timeline.add(level(at_s - 0.1, number), at_s)
    assert timeline.target(0.6) == pytest.approx(5)


def test_where_a_chunk_ends_sooner_the_newest_takes_over_without_a_jump_and_its_end_is_the_end():
    timeline = Timeline(0.2, execute_s=5.0)
    values = in_force(timeline, 3.0, stall_s=0.95)  # the last chunk, number 9, ends at 1.9
    assert values[99] == 0 and values[190] == pytest.approx(9) and values[191] is None
    told = np.array([values[tick] for tick in range(10, 191)])
    assert np.abs(np.diff(told)).max() < 9 * 0.01 / 0.2 + 1e-6


def test_what_waits_is_forgotten_with_the_rest():
    timeline = Timeline(0.0, execute_s=0.5)
    timeline.add(level(0.0, 1), 0.0)
    timeline.add(level(0.1, 2), 0.1)
    timeline.clear()
    assert timeline.target(0.2) is None and timeline.target(1.05) is None
