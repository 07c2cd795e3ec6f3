"""What only a simulation knows becomes columns: where objects are, which frames are to be imitated, what was right."""

import re

import numpy as np
import pytest
from convert_recordings import PROFILE, START, Message, event, make, recording, write_bag
from convert_results import convert

from training.inspect_dataset import InspectOptions, inspect_dataset

CHUNK, S = "pi05_progress_msgs/msg/ActionChunk", 10**9
JOINTS = PROFILE.layout.joints


def names(*objects, stamp=START):
    return Message("/sim/object_names", "std_msgs/msg/String", stamp, stamp, {"data": ",".join(objects)})


def poses(time_s, *positions):
    stamp, turn = START + round(time_s * S), make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    at = [make("geometry_msgs/msg/Point", **dict(zip("xyz", map(float, p), strict=True))) for p in positions]
    array = [make("geometry_msgs/msg/Pose", position=p, orientation=turn) for p in at]
    return Message("/sim/object_poses", "geometry_msgs/msg/PoseArray", stamp, stamp, {"poses": array})


def chunk(time_s, first, step, rows=6, dt=0.1):
    """Arms move by ``step`` from row to row, grippers are given 0.5 N m."""
    stamp = START + round(time_s * S)
    values = np.repeat(first + step * np.arange(rows)[:, None], len(JOINTS), 1).astype(np.float32)
    values[:, list(PROFILE.layout.grippers.values())] = 0.5
    units = ["N m" if name in ("l_gripper", "r_gripper") else "rad" for name in JOINTS]
    fields = {"chunk_id": 1, "names": list(JOINTS), "units": units, "dt": dt, "horizon": rows}
    fields |= {"values": values.ravel(), "executed_from": 0, "inference_ms": 0.0}
    return Message("/sim/planned_chunk", CHUNK, stamp, stamp, fields)


def events(*kinds, seconds=2.0):
    """An episode with events, given as kind, time in s and label."""
    return [event(0, START), *(event(k, START + round(t * S), label=label) for k, t, label in kinds),
            event(1, START + round((seconds - 0.1) * S), outcome=1)]  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Two episodes: of the first everything is known, of the second other objects, and nothing else but that."""
    folder = tmp_path_factory.mktemp("simulated")
    marked = events((3, 0.5, "dropped"), (2, 0.7, "lifted"), (4, 0.9, ""), (3, 1.5, "idle"))
    here = [poses(t, (t, 0, 1), (0, t, -1)) for t in np.arange(0.5, 2.0, 0.1)]
    plans = [chunk(t, t, 0.1) for t in np.arange(0.0, 2.0, 0.2)]
    write_bag(folder / "bags" / "a", recording(2.0) + marked + [names("cup", "lid"), *here] + plans)
    there = [poses(t, (7, 8, 9)) for t in np.arange(0.0, 2.0, 0.1)]
    write_bag(folder / "bags" / "b", recording(2.0) + events() + [names("ball"), *there, chunk(0.0, 0.0, 0.0)])
    return convert(folder / "ds", folder / "bags", fps=10, task=None)


def test_objects_of_all_recordings_have_their_place_and_are_0_where_they_are_not_known(converted):
    feature = converted.info["features"]["truth.positions"]
    assert feature["names"] == [f"{name}.{axis}" for name in ("cup", "lid", "ball") for axis in "xyz"]
    positions, episode = np.stack(converted.column("truth.positions")), converted.column("episode_index")
    first, second = positions[episode == 0], positions[episode == 1]
    assert not first[:5].any()
    np.testing.assert_allclose(first[12], [1.2, 0, 1, 0, 1.2, -1, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(second, np.tile([0, 0, 0, 0, 0, 0, 7, 8, 9], (len(second), 1)))


def test_frames_from_a_mistake_until_it_is_made_good_and_idle_ones_are_not_to_be_imitated(converted):
    valid, episode = converted.column("demonstration.valid"), converted.column("episode_index")
    assert np.flatnonzero(~valid[episode == 0]).tolist() == [5, 6, 7, 8, 15, 16, 17, 18, 19]
    assert valid[episode == 1].all()
    assert [label for label, _ in converted.report["episodes"][0]["parts"][0]["milestones"]] == ["lifted"]
    assert converted.report["episodes"][0]["parts"][0]["not_to_imitate"] == (~valid).sum()


def test_a_planned_chunk_is_kept_from_the_frame_on(converted):
    rows = np.stack(converted.column("demonstration.actions")).reshape(-1, 6, len(JOINTS))
    arm, gripper = 0, PROFILE.layout.grippers["left"]
    np.testing.assert_allclose(rows[4, :, arm], 0.4 + 0.1 * np.arange(6), atol=1e-5)  # planned in this frame
    np.testing.assert_allclose(rows[5, :, arm], [0.5, 0.6, 0.7, 0.8, 0.9, 0.9], atol=1e-5)  # 0.1 s before, to its end
    np.testing.assert_allclose(rows[:, :, gripper], PROFILE.layout.curves["left"].command(0.5), atol=1e-5)


def test_the_page_about_the_data_set_tells_of_it(converted, tmp_path):
    page, _ = inspect_dataset(InspectOptions(converted.root, output=tmp_path / "page.html", pictures=1))
    text = re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))
    assert f"{100 * converted.column('demonstration.valid').mean():.1f} % of the frames are to be imitated" in text
    assert re.search(r"ball.z +0.000 +\S+ +9.000", text)


def test_a_recording_without_planned_chunks_is_not_mixed_with_others(tmp_path):
    write_bag(tmp_path / "bags" / "a", recording(1.5) + events(seconds=1.5) + [chunk(0.0, 0.0, 0.0)])
    write_bag(tmp_path / "bags" / "b", recording(1.5) + events(seconds=1.5))
    made = convert(tmp_path / "ds", tmp_path / "bags", fps=10, task=None)
    assert len(made.progress["episodes"]) == 1
    assert "/sim/planned_chunk: other recordings have such chunks" in made.report["episodes"][1]["reasons"][0]


def test_recordings_that_say_nothing_of_it_give_a_data_set_without_these_columns(tmp_path):
    write_bag(tmp_path / "bag", recording(1.5) + events(seconds=1.5))
    made = convert(tmp_path / "ds", tmp_path / "bag", fps=10, task=None)
    assert not [name for name in made.info["features"] if name.startswith(("truth", "demonstration"))]


def test_poses_of_more_objects_than_are_named_are_refused(tmp_path):
    write_bag(tmp_path / "bag", recording(1.5) + [names("cup"), poses(0.0, (0, 0, 0), (1, 1, 1))])
    made = convert(tmp_path / "ds", tmp_path / "bag", fps=10)
    assert "/sim/object_poses has 2 poses, /sim/object_names 1 names" in made.text
