"""Pictures and video of a recording: what may be missing, damaged or of another size, and how the profile has them."""

import cv2
import numpy as np
import pytest
from convert_recordings import (
    START,
    TOPICS,
    event,
    joints,
    moved,
    numbered,
    packets,
    pictures,
    recording,
    without,
    write_bag,
)
from convert_results import convert

LEFT_IMAGES = "/left/color/image_raw/compressed"


@pytest.fixture(scope="module")
def sound():
    """Messages of a sound recording of two seconds; do not change them."""
    return recording(2.0)


def with_packets(sent, seconds=2.0):
    """A recording whose left camera sent these packets."""
    return joints(seconds) + pictures(seconds, cameras=("head_camera", "right_color")) + sent


@pytest.mark.parametrize("codec", ["hevc", "h264"])
def test_video_packets_are_decoded_in_order_and_chosen_afterwards(tmp_path, codec):
    bag = write_bag(tmp_path / "bag", with_packets(packets(2.0, codec)))
    run = convert(tmp_path / "ds", bag, fps=10)
    assert run.status == 0, run.text
    assert run.numbers("left_color") == run.numbers("head_camera") == list(range(0, 60, 3))


def test_video_that_begins_in_mid_stream_is_used_from_its_first_key_frame(tmp_path):
    bag = write_bag(tmp_path / "bag", with_packets(packets(2.0)[7:]))
    run = convert(tmp_path / "ds", bag)
    assert run.numbers("left_color") == run.numbers("head_camera") == list(range(10, 60))
    events = [event(0, START + 1_100_000_000), event(1, START + 1_800_000_000)]
    marked = write_bag(tmp_path / "marked", [*with_packets(packets(2.0)[7:]), *events])
    inside = convert(tmp_path / "inside", marked)  # begins between key frames: those before it are decoded, too
    assert inside.numbers("left_color") == inside.numbers("head_camera") == list(range(33, 55))


def test_an_episode_that_begins_before_the_first_key_frame_is_shortened_and_that_is_said(tmp_path):
    at = lambda s: START + round(s * 1e9)  # noqa: E731
    events = [
        event(0, at(0.3)), event(2, at(0.5), label="reached"), event(2, at(2.1), label="grasped"),
        event(1, at(3.9), outcome=1),
    ]  # fmt: skip
    sent = packets(4.0, gop=40)[5:]  # key frames at 1.33 and 2.67 s
    bag = write_bag(tmp_path / "bag", [*with_packets(sent, 4.0), *events])
    run = convert(tmp_path / "ds", bag, task=None)
    assert run.status == 0, run.text
    assert run.numbers("left_color") == run.numbers("head_camera") == list(range(40, 118))
    assert run.progress["episodes"][0]["outcome"] == "SUCCESS"
    marks = {m["label"]: m["frame"] for m in run.progress["episodes"][0]["milestones"]}
    assert marks == {"reached": 0, "grasped": 63 - 40}
    for text in ("left_color begins 1.03 s late; the first frame is there", "put at it: reached"):
        assert text in run.text and any(text in note for note in run.report["episodes"][0]["notes"])


def test_what_a_late_input_leaves_of_an_episode_must_be_worth_it(tmp_path):
    events = [event(0, START + 10**8), event(1, START + 19 * 10**8)]
    bag = write_bag(tmp_path / "bag", [*with_packets(packets(2.0, gop=40)[1:]), *events])
    run = convert(tmp_path / "ds", bag)  # the first key frame comes half a second before the end
    assert run.status == 1 and "too short" in run.text and "left_color begins" in run.text


def test_a_corrupted_packet_costs_the_frames_up_to_the_next_key_frame(tmp_path):
    sent = packets(4.0)
    sent[45].fields = {**sent[45].fields, "data": np.random.default_rng(0).integers(0, 255, 200).astype(np.uint8)}
    bag = write_bag(tmp_path / "bag", with_packets(sent, 4.0))
    held = convert(tmp_path / "held", bag)  # 5 pictures are lost, which is less than the largest gap
    numbers = held.numbers("left_color")
    assert held.status == 0 and numbers[:44] == list(range(44)) and numbers[50:] == list(range(50, 120))
    assert set(numbers[44:50]) <= {43, 44, 50} and held.report["frames_held"] >= 4
    dropped = convert(tmp_path / "dropped", bag, max_gap=0.1)
    assert dropped.status == 1 and "cannot be decoded" in dropped.text
    split = convert(tmp_path / "split", bag, max_gap=0.1, on_gap="split")
    assert split.numbers("left_color") == split.numbers("head_camera")
    assert not {45, 46, 47, 48, 49} & set(split.numbers("left_color"))


def test_a_lost_packet_is_no_licence_to_show_what_builds_upon_it(tmp_path):
    sent = packets(3.0)
    del sent[45]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", with_packets(sent, 3.0)))
    numbers = run.numbers("left_color")
    assert not {46, 47, 48, 49} & set(numbers) and numbers[50:] == list(range(50, 90))


def test_a_damaged_picture_is_passed_over(tmp_path, sound):
    messages = list(sound)
    where = [i for i, m in enumerate(messages) if m.topic == LEFT_IMAGES][20]
    bad = moved(messages[where])
    bad.fields = {**bad.fields, "data": bad.fields["data"][:40]}
    messages[where] = bad
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    numbers = run.numbers("left_color")
    assert numbers[20] in (19, 21) and numbers[:20] + numbers[21:] == [*range(20), *range(21, 60)]
    assert run.report["episodes"][0]["parts"][0]["inputs"]["left_color"]["bad"] == 1


def test_a_camera_that_changes_its_size(tmp_path):
    changed = pictures(1.0, cameras=("left_color",), size=(96, 128), start=START + 10**9, first=30)
    messages = without(recording(2.0), LEFT_IMAGES, 0.999) + changed
    bag = write_bag(tmp_path / "bag", messages)
    run = convert(tmp_path / "ds", bag)
    assert run.status == 1 and "128x96" in run.text and "64x48" in run.text and "--image-size" in run.text
    resized = convert(tmp_path / "resized", bag, image_size="48x64")
    assert resized.numbers("left_color") == list(range(60))


def test_bags_of_another_size_are_dropped_with_the_remedy(tmp_path, sound):
    for i in range(2):
        write_bag(tmp_path / "bags" / f"a{i}", sound)
    write_bag(tmp_path / "bags" / "b", recording(1.0, size=(96, 128)))
    run = convert(tmp_path / "ds", tmp_path / "bags")
    assert len(run.episodes()) == 2 and "--image-size" in run.text
    assert len(convert(tmp_path / "resized", tmp_path / "bags", image_size="48x64").episodes()) == 3


def test_a_recorded_camera_can_be_named(tmp_path, sound):
    messages = []
    for m in sound:
        m = moved(m)
        m.topic = m.topic.replace(TOPICS["left_color"], "/elsewhere")
        messages.append(m)
    bag = write_bag(tmp_path / "bag", messages)
    run = convert(tmp_path / "ds", bag, camera="left_color=/elsewhere/compressed")
    assert run.numbers("left_color") == list(range(60))
    assert convert(tmp_path / "ds2", bag, camera="nose=/elsewhere/compressed").status == 1


def test_stereo_pictures_are_turned_and_cropped_as_the_profile_says(tmp_path):
    wide = (48, 128)
    stereo = pictures(1.0, cameras=("head_camera",), size=wide)
    for i, m in enumerate(stereo):
        both = np.concatenate([numbered(7), numbered(i)], axis=1)[
            ::-1, ::-1
        ]  # upside down: the left eye is on the right

        m.fields = {**m.fields, "data": cv2.imencode(".png", np.ascontiguousarray(both[..., ::-1]))[1].ravel()}
        m.topic = "/xr_video_topic/compressed"
    messages = joints(1.0) + pictures(1.0, cameras=("left_color", "right_color")) + stereo
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages), robot="teleavatar_v1")
    assert run.status == 0, run.text
    assert run.numbers("head_camera") == [7] * 30
    assert run.info["features"]["observation.images.head_camera"]["shape"] == [48, 64, 3]
