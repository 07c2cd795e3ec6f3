"""The simulated cameras of robots that send other things than whole pictures."""

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.profile import PACKET_TYPE, RobotProfile
from pi05_progress.robots.video_packets import PacketDecoder, VideoPicture, frame_to_rgb
from pi05_progress.units.transforms import resize_with_pad
from pi05_progress_ros.sim.episodes.generation import EpisodeBag
from pi05_progress_ros.sim.physics.cameras import CameraRig, scaled_sizes
from pi05_progress_ros.sim.physics.world import World
from pi05_progress_ros.sim.robot.camera_sender import CameraSender, CameraSenders
from pi05_progress_ros.sim.robot.states import to_time

COUNT = 5


@pytest.fixture(scope="module")
def rendered():
    """What the default cameras see in an odd state, at a size that videos have, too."""
    world = World("stack_cubes", 0)
    rig = CameraRig(world.model, scaled_sizes(0.25))
    yield world, rig.render(world.snapshot())
    rig.close()


def test_a_stereo_camera_that_is_turned_shows_the_model_what_the_default_one_does(rendered):
    world, pictures = rendered
    profile = RobotProfile.load("teleavatar_v1")
    rig = CameraRig(world.model, scaled_sizes(0.25), profile)
    frames = rig.render(world.snapshot())
    rig.close()
    assert frames["head_camera"].shape == (270, 960, 3)
    for key, camera in profile.cameras.items():
        np.testing.assert_array_equal(prepare_image(frames[key], camera), pictures[key])


def test_the_tiles_of_a_stream_show_the_model_what_the_default_cameras_do(tmp_path, rendered):
    world, pictures = rendered
    profile, store = RobotProfile.load("teleavatar_v2"), message_store()
    rig = CameraRig(world.model, scaled_sizes(0.25), profile)
    with EpisodeBag(tmp_path / "bag", store) as bag:
        CameraSenders(bag, profile, 0.25).publish(rig.render(world.snapshot()), to_time(5))
    rig.close()
    with AnyReader([tmp_path / "bag"], default_typestore=store) as reader:
        ((connection, _, data),) = reader.messages()
        message = reader.deserialize(data, connection.msgtype)
    assert (connection.topic, message.width, message.height) == ("/stream/ffmpeg", 640, 1360)
    ((_, frame),) = PacketDecoder().decode(message, 0)
    for key, camera in profile.cameras.items():
        tile = prepare_image(decode_image(VideoPicture(0, frame, profile.stream.tiles[camera.tile]), key), camera)
        assert tile.shape[1] >= pictures[key].shape[1], "as sharp as the default ones"
        assert tile.shape[1] / tile.shape[0] == pytest.approx(camera.size[0] / camera.size[1], rel=0.02)
        seen, expected = (resize_with_pad(image, 224, 224).astype(int) for image in (tile, pictures[key]))
        assert np.abs(seen - expected).mean() < 4, key


@pytest.mark.parametrize("transport", ["raw", "compressed", "ffmpeg"])
def test_what_is_sent_is_the_picture(tmp_path, rendered, transport):
    camera = RobotProfile.load("teleavatar").cameras["left_color"].model_copy(update={"transport": transport})
    picture, store = rendered[1]["left_color"], message_store()
    topic, kind = camera.source
    assert topic == "/left/color/image_raw" + {"raw": "", "compressed": "/compressed", "ffmpeg": "/ffmpeg"}[transport]
    with EpisodeBag(tmp_path / "bag", store) as bag:
        sender = CameraSender(bag, "left_color", camera)
        for second in range(COUNT):
            sender.publish(np.roll(picture, 2 * second, axis=1), to_time(second * 10**9))
    found, decoder = [], PacketDecoder()
    with AnyReader([tmp_path / "bag"], default_typestore=store) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            assert message.header.stamp.sec == len(found) and message.header.frame_id == "left_color"
            if kind == PACKET_TYPE:
                assert (message.pts, message.flags, message.encoding) == (len(found), int(not found), "hevc")
                found += [frame_to_rgb(frame) for _, frame in decoder.decode(message, 0)]
            else:
                found.append(decode_image(message, "left_color"))
    assert len(found) == COUNT
    for second, image in enumerate(found):
        difference = np.abs(image.astype(int) - np.roll(picture, 2 * second, axis=1))
        assert difference.mean() < (0.01 if transport == "raw" else 4)


def test_the_smallest_pictures_that_may_be_asked_for_can_be_coded(tmp_path):
    profile = RobotProfile.load("teleavatar_v1")
    smallest = scaled_sizes(0.05)
    assert smallest == {"head_camera": (96, 54), "left_color": (42, 24), "right_color": (42, 24)}
    with EpisodeBag(tmp_path / "bag", message_store()) as bag:
        for key, (width, height) in smallest.items():
            picture = np.zeros((height, width, 3), np.uint8)
            CameraSender(bag, key, profile.cameras[key]).publish(picture, to_time(0))
