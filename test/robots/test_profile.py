"""Robot profiles against the numbers of the robot's API document, and what a wrong file is told."""

import re

import numpy as np
import pytest

from pi05_progress.files.config_files import config_file
from pi05_progress.robots.messages import prepare_image
from pi05_progress.robots.profile import RobotProfile, known_profiles
from pi05_progress.robots.video_packets import crop
from pi05_progress.robots.yaml_lines import ConfigError
from pi05_progress_ros.sim.physics.scene import arm_table

IMAGE, PACKET = "sensor_msgs/msg/Image", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
PROFILES = ["teleavatar", "teleavatar_v1", "teleavatar_v2"]


def test_the_three_profiles_are_known():
    assert known_profiles() == PROFILES


@pytest.mark.parametrize("name", PROFILES)
def test_what_all_robots_have_in_common(name):
    profile = RobotProfile.load(name)
    assert profile.name == name
    assert list(profile.arms) == list(profile.grippers) == ["left", "right"]
    for side in profile.arms:
        arm, gripper = profile.arms[side], profile.grippers[side]
        assert arm.state_topic == f"/{side}_arm/joint_states"
        assert arm.command_topic == f"/api/{side}_arm/joint_cmd"
        assert arm.teleoperation_topic == f"/{side}_arm/joint_cmd"
        assert arm.state_pose_topic == f"/{side}_arm/current_ee_pose"
        assert arm.target_pose_topic == f"/{side}_arm/target_ee_pose"
        assert gripper.state_topic == f"/{side}_gripper/joint_states"
        assert gripper.command_topic == f"/api/{side}_gripper/cmd"
        assert gripper.teleoperation_topic == f"/{side}_gripper/joint_cmd"
        np.testing.assert_array_equal(arm.limits(), [link["range"] for link in arm_table().links[side]])
    left, right = ([list(r) for r in arm.ranges] for arm in profile.arms.values())
    assert left == [[-1.8, 1.8], [0, 1.8], [-2.6, 1.3], [0.25, 2.2], [-1.8, 1.8], [-1.4, 1.4], [-0.68, 0.68]]
    assert right == [[-1.8, 1.8], [-1.8, 0], [-1.3, 2.6], [-2.2, -0.25], [-1.8, 1.8], [-1.4, 1.4], [-0.68, 0.68]]
    assert (profile.enable_topic, profile.enable_timeout_s) == ("/api/fsm/enable", 1.0)
    assert (profile.fsm_topic, profile.mode_topic) == ("/fsm_state", "/api/current_mode")
    assert (profile.marks.topic, profile.marks.start_button, profile.marks.stop_button) == (
        "/xr/left_hand_inputs", 2, 3,
    )  # fmt: skip
    inputs = {key: camera.model_input for key, camera in profile.cameras.items()}
    assert inputs == {
        "head_camera": "base_0_rgb", "left_color": "left_wrist_0_rgb", "right_color": "right_wrist_0_rgb",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cameras"),
    [
        (
            "teleavatar",
            {
                "left_color": ("/left/color/image_raw", IMAGE, (848, 480)),
                "right_color": ("/right/color/image_raw", IMAGE, (848, 480)),
                "head_camera": ("/head/image_raw", IMAGE, (1920, 1080)),
            },
        ),
        (
            "teleavatar_v1",
            {
                "left_color": ("/left/color/image_raw/ffmpeg", PACKET, (848, 480)),
                "right_color": ("/right/color/image_raw/ffmpeg", PACKET, (848, 480)),
                "head_camera": ("/xr_video_topic/ffmpeg", PACKET, (4320, 2160)),
            },
        ),
        (
            "teleavatar_v2",
            {
                "left_color": (None, "rtp", (640, 400)),
                "right_color": (None, "rtp", (640, 400)),
                "head_camera": (None, "rtp", (960, 960)),
            },
        ),
    ],
)
def test_how_cameras_arrive(name, cameras):
    profile = RobotProfile.load(name)
    assert {key: (c.topic, c.type, c.size) for key, c in profile.cameras.items()} == cameras


def test_command_styles_and_what_goes_with_them():
    default, first, second = (RobotProfile.load(name) for name in PROFILES)
    assert (default.arm_command, first.arm_command, second.arm_command) == ("relay", "relay", "direct")
    assert (default.gripper_curve, first.gripper_curve, second.gripper_curve) == (
        "teleavatar", "teleavatar", "teleavatar_v2",
    )  # fmt: skip
    assert (default.gripper_closed, first.gripper_closed, second.gripper_closed) == (0, 0, 1)
    assert (default.production_domain, first.production_domain, second.production_domain) == (None, 0, 29)
    assert (default.vector_size, first.vector_size, second.vector_size) == (48, 48, 62)
    for profile in (default, first):
        relay = profile.relay
        assert relay.kp == (7, 7, 10, 10, 10, 8, 8)
        assert relay.v_max == (15, 15, 20, 20, 44, 33, 33)
        assert (relay.speed_share, relay.rate_hz) == (0.3, 100)
        assert (relay.target_timeout_s, relay.state_timeout_s) == (0.5, 0.2)
        for side, arm in profile.arms.items():
            assert arm.target_topic == f"/{side}_arm/model_joint_cmd"
    stream = second.stream
    assert (stream.port, stream.payload_type, stream.clock_rate_hz, stream.codec) == (8890, 96, 90000, "hevc")
    assert (stream.size, stream.rate_hz) == ((1280, 2720), 45)


@pytest.mark.parametrize(
    ("tile", "size", "first_pixel"),
    [
        ("head_left_eye", (960, 960), (960, 160)),
        ("head_right_eye", (960, 960), (0, 160)),
        ("right_wrist_left_eye", (400, 640), (1920, 0)),
        ("right_wrist_right_eye", (400, 640), (1920, 640)),
        ("left_wrist_left_eye", (400, 640), (2320, 0)),
        ("left_wrist_right_eye", (400, 640), (2320, 640)),
    ],
)
def test_tiles_of_the_second_robots_stream(tile, size, first_pixel):
    rows, columns = np.mgrid[:2720, :1280]
    cut = crop(np.stack([rows, columns, rows], axis=-1), RobotProfile.load("teleavatar_v2").stream.tiles[tile])
    assert cut.shape[:2] == size
    assert tuple(cut[0, 0, :2]) == first_pixel


def test_the_model_gets_the_inner_wrist_eyes_and_the_left_head_eye():
    profile = RobotProfile.load("teleavatar_v2")
    rows, columns = np.mgrid[:2720, :1280]
    frame = np.stack([rows, columns, rows], axis=-1)
    parts = {key: crop(frame, profile.stream.tiles[camera.tile]) for key, camera in profile.cameras.items()}
    corners = {key: tuple(part[0, 0, :2]) for key, part in parts.items()}
    assert corners == {"head_camera": (960, 160), "left_color": (2320, 640), "right_color": (1920, 0)}
    for key, part in parts.items():  # single eyes are left alone, recorded stereo is cut to the same eye
        assert prepare_image(part, profile.cameras[key]).shape == part.shape
    for key, width, height, corner in (("head_camera", 3840, 1920, 0), ("left_color", 2560, 800, 1280)):
        stereo = np.broadcast_to(np.arange(width)[None, :, None], (height, width, 3))
        eye = prepare_image(stereo, profile.cameras[key])
        assert eye.shape == (height, width // 2, 3)
        assert eye[0, 0, 0] == corner


def test_the_first_robots_head_camera_is_turned_then_its_left_half_kept():
    camera = RobotProfile.load("teleavatar_v1").cameras["head_camera"]
    picture = np.arange(4 * 8 * 3).reshape(4, 8, 3)
    eye = prepare_image(picture, camera)
    assert eye.shape == (4, 4, 3)
    np.testing.assert_array_equal(eye[0, 0], picture[-1, -1])


def test_unknown_profiles_are_refused_with_a_list():
    with pytest.raises(ConfigError, match="unknown robot profile 'teleavatr'; known profiles: teleavatar, "):
        RobotProfile.load("teleavatr")
    with pytest.raises(ConfigError, match="unknown robot profile"):
        RobotProfile.load("arm_geometry")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rate_hz: 100", "rate_hz: fast"), r"mine\.yaml:\d+: relay\.rate_hz: .*valid number.*'fast'"),
        (("gripper_closed: 0", "gripper_closed: 2"), r"mine\.yaml:\d+: gripper_closed: .*0 or 1.*found 2"),
        (("fsm_topic: /fsm_state", "fsm_topc: /fsm_state"), r"mine\.yaml:1?\d*: fsm_topic: is missing"),
        (("fsm_topic: /fsm_state", "fsm_topc: /fsm_state"), r"mine\.yaml:\d+: fsm_topc: unknown key"),
        (("[-0.68, 0.68]]", "[0.68, -0.68]]"), r"mine\.yaml:\d+: arms\.left: ranges: l_joint7 has lower"),
        (("l_joint6, l_joint7]", "l_joint6]"), r"mine\.yaml:\d+: arms\.left: ranges: 7 ranges for 6 joints"),
        (("topic: /head/image_raw", "topic: '/head image'"), r"mine\.yaml:\d+: cameras\.head_camera\.topic"),
        (("topic: /head/image_raw", "topic: null"), r"cameras\.head_camera: a topic is needed"),
        (("kp: [7, 7, 10", "kp: [7, .nan, 10"), r"mine\.yaml:\d+: relay\.kp\.1"),
        (
            ("model_input: base_0_rgb", "model_input: left_wrist_0_rgb"),
            "at least one of base_0_rgb, .* is needed, and none twice",
        ),
        (("name: teleavatar", "name: [teleavatar"), r"mine\.yaml:\d+: not valid YAML"),
        (("vector_size: 48", "vector_size: 50"), r"vector_size: 50, vectors of these joints have 48 or 62 numbers"),
        (("gripper_curve: teleavatar", "gripper_curve: v3"), "gripper_curve: 'v3' is not among gripper_curves"),
        (("[3.5, 0]]", "[-3.5, 0]]"), "gripper_curves.teleavatar: left: efforts must rise"),
        (("left: [[-0.5, 1], [0, 0.5], [3.5, 0]]", "middle: [[0, 0], [1, 1]]"), "gripper left is missing"),
        (("joint: r_joint8", "joint: r_joint7"), "joints r_joint7 are named more than once"),
        (("kp: [7, 7,", "kp: [7,"), "relay: 6 numbers of kp, arm left has 7 joints"),
        (("relative: [arms]", "relative: [grippers]"), r"mine\.yaml:\d+: model_columns: relative: grippers cannot be"),
        (("vector_size: 48", "vector_size: 48\nvector_size: 62"), r"mine\.yaml:\d+: vector_size: given twice"),
        (("name: teleavatar", "extends: mine.yaml\nname: x"), "extends itself"),
        (("name: teleavatar", "extends: other.yaml\nname: x"), r"other\.yaml: cannot be read"),
    ],
)
def test_a_wrong_file_is_told_file_line_and_key(tmp_path, change, message):
    text = config_file("teleavatar.yaml").read_text()
    assert change[0] in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(ConfigError, match=message):
        RobotProfile.load(path)


def test_the_line_named_is_the_one_in_the_file_that_says_it(tmp_path):
    base = tmp_path / "teleavatar.yaml"
    base.write_text(config_file("teleavatar.yaml").read_text().replace("rate_hz: 100", "rate_hz: -1"))
    line = next(n for n, text in enumerate(base.read_text().splitlines(), 1) if "rate_hz: -1" in text)
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: teleavatar.yaml\nname: mine\ngripper_closed: 3\n")
    with pytest.raises(ConfigError) as error:
        RobotProfile.load(mine)
    assert f"{base}:{line}: relay.rate_hz" in str(error.value)
    assert f"{mine}:3: gripper_closed" in str(error.value)


def test_a_complete_profile_of_before_the_model_columns_goes_on_to_work(tmp_path):
    text = config_file("teleavatar.yaml").read_text()
    for key in ("gripper_curves", "model_columns", "action_units"):
        text = re.sub(rf"(?m)^{key}:.*\n(  .*\n)*", "", text)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert "model_columns" not in text and RobotProfile.load(path) == RobotProfile.load("teleavatar")


def test_a_profile_of_ones_own_extends_a_shipped_one(tmp_path):
    (tmp_path / "teleavatar.yaml").write_text(config_file("teleavatar.yaml").read_text())
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: teleavatar.yaml\nname: mine\ncameras:\n  head_camera:\n    topic: /other/image_raw\n")
    profile = RobotProfile.load(mine)
    assert profile.cameras["head_camera"].topic == "/other/image_raw"
    assert profile.cameras["head_camera"].compressed_topic == "/other/image_raw/compressed"
    assert profile.cameras["left_color"].topic == "/left/color/image_raw"


def test_a_transport_says_where_an_image_topics_pictures_come_from(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: teleavatar\nname: mine\ncameras:\n"
        "  head_camera: {transport: compressed}\n  left_color: {transport: ffmpeg}\n"
    )
    sources = {key: camera.source for key, camera in RobotProfile.load(mine).cameras.items()}
    assert sources == {
        "head_camera": ("/head/image_raw/compressed", "sensor_msgs/msg/CompressedImage"),
        "left_color": ("/left/color/image_raw/ffmpeg", PACKET),
        "right_color": ("/right/color/image_raw", IMAGE),
    }
    for base, value in (("teleavatar_v1", "compressed"), ("teleavatar", "theora")):
        mine.write_text(f"extends: {base}\nname: mine\ncameras:\n  head_camera: {{transport: {value}}}\n")
        with pytest.raises(ConfigError, match="transport"):
            RobotProfile.load(mine)


def test_policies_are_shared_by_robots_whose_numbers_mean_the_same():
    robots = {name: RobotProfile.load(name) for name in PROFILES}
    assert robots["teleavatar_v1"].has_numbers_of("teleavatar") and robots["teleavatar"].has_numbers_of("teleavatar_v1")
    assert not robots["teleavatar_v2"].has_numbers_of("teleavatar"), "its grippers close the other way"
    assert not robots["teleavatar"].has_numbers_of("nobody")


@pytest.mark.parametrize(
    ("file", "base"),
    [("mine.yaml", "teleavatar"), ("mine.yaml", "teleavatar_v1.yaml"), ("teleavatar.yaml", "teleavatar")],
)
def test_a_profile_anywhere_extends_a_shipped_one_by_its_name(tmp_path, file, base):
    (tmp_path / file).write_text(f"extends: {base}\nname: mine\n")
    shipped = RobotProfile.load(base.removesuffix(".yaml"))
    assert RobotProfile.load(tmp_path / file) == shipped.model_copy(update={"name": "mine"})
