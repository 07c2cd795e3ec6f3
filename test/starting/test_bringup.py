"""What is started, with which parameters; nothing is started here. The real launch: test_launch_files.py."""

import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from pi05_progress.errors import UserError
from pi05_progress_ros.starting.bringup import BRINGUP, RECORD, SIM_TASKS, SIMULATION

TRANSPORT = "FASTRTPS_DEFAULT_PROFILES_FILE"
DISCOVERY = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def bringup(environment=None, **given):
    """The processes of a bringup by name."""
    return {p.name: p for p in BRINGUP.processes(given, environment or {})}


@pytest.fixture
def rosbag2(tmp_path):
    """Variables under which rosbag2 seems to be installed."""
    for name in ("ros2bag", "rosbag2_storage_mcap"):
        entry = tmp_path / "prefix/share/ament_index/resource_index/packages" / name
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.touch()
    program = tmp_path / "prefix/bin/ros2"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return {"AMENT_PREFIX_PATH": str(tmp_path / "prefix"), "PATH": str(program.parent)}


# --- beside a robot ---


def test_beside_a_robot_only_the_policy_is_started_and_it_commands_nothing():
    processes = bringup()
    assert list(processes) == ["policy_node"]
    assert processes["policy_node"].parameters == {
        "robot": "teleavatar",
        "checkpoint": "",
        "prompt": "",
        "publish_commands": False,
        "use_sim_time": False,
        "autostart": True,
    }
    assert processes["policy_node"].required


@pytest.mark.parametrize(
    ("robot", "expected"),
    [
        ("teleavatar", ["policy_node", "arm_relay"]),
        ("teleavatar_v1", ["policy_node", "arm_relay"]),
        ("teleavatar_v2", ["policy_node"]),
    ],
)
def test_robots_that_follow_velocities_get_the_relay_when_they_are_commanded(robot, expected):
    processes = bringup(robot=robot, publish_commands="true")
    assert list(processes) == expected
    assert all(p.parameters["robot"] == robot for p in processes.values())
    assert list(bringup(robot=robot)) == ["policy_node"]


def test_what_is_to_respawn_is_the_policy_and_its_relay_not_the_simulation():
    asked = bringup(sim="true", publish_commands="true", respawn="true")
    assert {name for name, process in asked.items() if process.respawn} == {"policy_node", "arm_relay"}
    assert not any(process.respawn for process in bringup(sim="true", publish_commands="true").values())


def test_the_relay_has_the_policy_nodes_speed(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    max_joint_speed: 0.2\n    blend_s: 0.1\n", encoding="utf-8")
    relay = bringup(publish_commands="true", params_file=str(file))["arm_relay"]
    assert relay.parameters["max_joint_speed"] == 0.2 and "blend_s" not in relay.parameters


def test_the_namespace_moves_the_policy_and_its_relay():
    processes = bringup(namespace="robot1/left", publish_commands="true")
    assert {p.namespace for p in processes.values()} == {"/robot1/left"}
    assert processes["policy_node"].full_name == "/robot1/left/policy_node"
    with pytest.raises(UserError, match="namespace:=a b: expected names"):
        bringup(namespace="a b")


def test_the_middleware_profile_is_added_unless_the_user_has_one():
    added = bringup()["policy_node"].environment
    assert set(added) == {TRANSPORT}
    assert Path(added[TRANSPORT]).name == "fastdds.xml"
    assert Path(added[TRANSPORT]).is_file()
    assert bringup({TRANSPORT: "/mine.xml"})["policy_node"].environment == {}


# --- beside the simulated robot ---


def test_the_simulation_is_worked_by_the_expert_and_stays_on_this_machine():
    processes = bringup(sim="true", sim_task="place_in_basket", sim_image_scale="0.25")
    assert list(processes) == ["simulated_robot", "policy_node"]
    assert processes["simulated_robot"].parameters == {
        "profile": "teleavatar",
        "task": "place_in_basket",
        "image_scale": 0.25,
        "expert": True,
        "expert_episodes": 0,
        "episodes": "reset",
        "faults": [""],
    }
    given = bringup(sim="true", sim_faults="long_pause:1, missed_grasp")["simulated_robot"]
    assert given.parameters["faults"] == ["long_pause:1", "missed_grasp"]
    assert processes["policy_node"].parameters["use_sim_time"] is True
    assert all(p.environment[DISCOVERY] == "LOCALHOST" for p in processes.values())
    assert DISCOVERY not in bringup({DISCOVERY: "SUBNET"}, sim="true")["policy_node"].environment


def test_the_task_of_each_simulated_episode_is_followed_unless_a_prompt_is_given():
    assert bringup(sim="true")["policy_node"].remappings == (("~/set_task", "/sim/task"),)
    assert bringup(sim="true", prompt="stack")["policy_node"].remappings == ()
    assert bringup()["policy_node"].remappings == ()


def test_a_commanded_simulation_has_no_expert():
    processes = bringup(sim="true", publish_commands="true")
    assert list(processes) == ["simulated_robot", "policy_node", "arm_relay"]
    assert processes["simulated_robot"].parameters["expert"] is False
    assert processes["simulated_robot"].parameters["episodes"] == "reset"
    going_on = bringup(sim="true", publish_commands="true", sim_episodes="policy")["simulated_robot"]
    assert going_on.parameters["episodes"] == "policy"
    assert processes["policy_node"].parameters["publish_commands"] is True


@pytest.mark.parametrize("launch", [BRINGUP, SIMULATION], ids=lambda launch: launch.name)
def test_no_simulation_is_started_in_the_production_robots_domain(launch):
    given = {"sim": "true"} if launch is BRINGUP else {}
    with pytest.raises(UserError, match="ROS_DOMAIN_ID=29 is the production robot's"):
        launch.processes(given, {"ROS_DOMAIN_ID": "29"})
    assert bringup({"ROS_DOMAIN_ID": "29"}), "the policy beside the robot itself"


def test_the_tasks_are_those_of_the_simulation():
    from pi05_progress_ros.sim.physics.tasks import TASKS

    assert tuple(TASKS) == SIM_TASKS


def test_the_simulation_alone_takes_the_robots_parameters_in_their_types():
    (robot,) = SIMULATION.processes({"seed": "3", "expert": "true", "faults": "missed_grasp:0, gives_up"}, {})
    assert robot.parameters["seed"] == 3
    assert robot.parameters["expert"] is True
    assert robot.parameters["faults"] == ["missed_grasp:0", "gives_up"]
    assert isinstance(robot.parameters["image_scale"], float)


@pytest.mark.parametrize(
    ("launch", "given", "message"),
    [
        (BRINGUP, {"sim": "true", "sim_image_scale": "2"}, "sim_image_scale:=2: expected 0.05 to 1"),
        (SIMULATION, {"stream_port": "70000"}, "stream_port:=70000: expected 0 to 65535"),
        (SIMULATION, {"image_scale": "nan"}, "image_scale:=nan: expected 0.05 to 1"),
        (SIMULATION, {"seed": "-1"}, "seed:=-1: expected 0 to"),
        (SIMULATION, {"lockstep_step_s": "0"}, "lockstep_step_s:=0: expected 0.005 to 10"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_what_the_simulated_robot_would_refuse_is_refused_before_anything_starts(launch, given, message):
    with pytest.raises(UserError) as error:
        launch.processes(given, {})
    assert str(error.value).startswith(message)


# --- parameter files ---


def test_an_argument_wins_over_the_parameter_file_and_the_file_over_the_default(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {robot: teleavatar_v2, publish_commands: true, prompt: fold, blend_s: 0.1}\n"
        "other_node:\n  ros__parameters: {prompt: never}\n"
    )
    policy = bringup(params_file=str(file))["policy_node"]
    assert policy.params_file == str(file)
    assert policy.parameters["robot"] == "teleavatar_v2"
    assert policy.parameters["publish_commands"] is True
    assert policy.parameters["prompt"] == "fold"
    assert "blend_s" not in policy.parameters, "the node reads the rest itself"
    policy = bringup(params_file=str(file), publish_commands="false", prompt="stack")["policy_node"]
    assert policy.parameters["publish_commands"] is False
    assert policy.parameters["prompt"] == "stack"


@pytest.mark.parametrize("key", ["policy_node", "/a/policy_node", "/*/policy_node", "/**/policy_node", "a/policy_node"])
def test_sections_of_a_parameter_file_are_matched_as_ros_does(tmp_path, key):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{key}:\n  ros__parameters: {{prompt: fold}}\n")
    in_namespace = bringup(params_file=str(file), namespace="a")["policy_node"].parameters["prompt"]
    in_root = bringup(params_file=str(file))["policy_node"].parameters["prompt"]
    assert (in_root, in_namespace) == {
        "policy_node": ("fold", ""),
        "/a/policy_node": ("", "fold"),
        "a/policy_node": ("", "fold"),
        "/*/policy_node": ("", "fold"),
        "/**/policy_node": ("fold", "fold"),
    }[key]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("/**: {ros__parameters: {publish_commands: 'yes'}}", "publish_commands: 'yes' is refused, expected bool"),
        (
            "/**: {ros__parameters: {robot: teleavatar}}\npolicy_node: {ros__parameters: {robot: teleavatar_v2}}",
            "robot is given to /policy_node more than once",
        ),
    ],
)
def test_a_parameter_file_that_cannot_be_followed_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        bringup(params_file=str(file))
    assert str(file) in str(error.value)


def test_the_shipped_parameter_file_holds_every_parameter_of_the_node_at_its_default():
    sys.path.insert(0, str(ROOT / "scripts"))
    from parameter_template import template

    remedy = "run  python scripts/parameter_template.py > config/policy_node.yaml"
    assert (ROOT / "config/policy_node.yaml").read_text() == template(), remedy
    assert bringup(params_file=str(ROOT / "config/policy_node.yaml"))["policy_node"].parameters["autostart"] is True


# --- what is wrong is said before anything starts ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"promt": "x"}, "unknown argument promt; did you mean prompt?"),
        ({"sim": "yes"}, "sim:=yes: expected true or false"),
        ({"sim_task": "juggle"}, "sim_task:=juggle: expected stack_cubes or place_in_basket or lift_cube"),
        ({"robot": "nobody"}, "robot:=nobody: unknown robot profile 'nobody'; known profiles: teleavatar, "),
        ({"checkpoint": "/nowhere"}, "checkpoint:=/nowhere: no such folder; a checkpoint is a folder with"),
        ({"checkpoint": "/"}, "checkpoint:=/: there is no config.json"),
        ({"sim": "true", "sim_image_scale": "big"}, "sim_image_scale:=big: expected a number"),
        ({"sim": "true", "sim_faults": "naps"}, "sim_faults:=naps: unknown fault 'naps'; known faults: "),
        (
            {"sim": "true", "sim_task": "lift_cube", "sim_faults": "wrong_object"},
            "sim_faults:=wrong_object: fault 'wrong_object': lift_cube has no other object",
        ),
        ({"sim_faults": "long_pause"}, "sim_faults:=long_pause: these are the scripted expert's, and sim is false"),
        (
            {"sim": "true", "publish_commands": "true", "sim_faults": "long_pause"},
            "these are the scripted expert's, and publish_commands makes the policy work in its place",
        ),
        ({"sim": "true", "sim_episodes": "policy"}, "sim_episodes:=policy: it needs sim and publish_commands"),
        ({"record": "true"}, "sudo apt install ros-jazzy-ros2cli ros-jazzy-ros2bag ros-jazzy-rosbag2-storage-mcap"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_with_what_would_be_right(given, message):
    with pytest.raises(UserError) as error:
        bringup(**given)
    assert message in str(error.value)


def test_paths_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/config.json").touch()
    (tmp_path / "mine.yaml").write_text("{}")
    policy = bringup(checkpoint="~/checkpoint", params_file="~/mine.yaml")["policy_node"]
    assert policy.parameters["checkpoint"] == str(tmp_path / "checkpoint")
    assert policy.params_file == str(tmp_path / "mine.yaml")


# --- recording ---


def test_recording_takes_the_profiles_topics_and_the_policys(rosbag2):
    (recorder,) = RECORD.processes({"topics": "/tf, /tf_static", "namespace": "a", "output": "bag"}, rosbag2)
    command = recorder.command
    assert command[:7] == ("ros2", "bag", "record", "--storage", "mcap", "--output", "bag")
    topics = command[command.index("--topics") + 1 :]
    for topic in ("/head/image_raw", "/left_arm/joint_states", "/right_arm/joint_cmd", "/left_gripper/joint_states",
                  "/left_arm/current_ee_pose", "/left_arm/model_joint_cmd", "/api/left_arm/joint_cmd", "/fsm_state",
                  "/api/current_mode", "/xr/left_hand_inputs", "/a/task_progress", "/a/action_chunk",
                  "/a/episode_event", "/diagnostics", "/tf", "/tf_static"):  # fmt: skip
        assert topic in topics
    assert len(set(topics)) == len(topics)
    assert not any(topic.startswith("/sim") or topic == "/clock" for topic in topics)
    assert recorder.required
    assert TRANSPORT in recorder.environment


def test_every_topic_of_a_profile_is_recorded(rosbag2):
    """A topic added to the profile must not be forgotten here."""
    from pi05_progress.robots.profile import RobotProfile

    def topics(value, key=""):
        if isinstance(value, dict):
            return {topic for name, child in value.items() for topic in topics(child, name)}
        return {value} if key.endswith("topic") and value else set()

    (recorder,) = RECORD.processes({"output": "bag"}, rosbag2)
    assert topics(RobotProfile.load("teleavatar").model_dump()) <= set(recorder.command)


@pytest.mark.parametrize(
    ("robot", "images", "expected", "unexpected"),
    [
        ("teleavatar", "raw", "/head/image_raw", "/head/image_raw/compressed"),
        ("teleavatar", "compressed", "/head/image_raw/compressed", "/head/image_raw"),
        ("teleavatar", "none", "/fsm_state", "/head/image_raw"),
        ("teleavatar_v1", "raw", "/xr_video_topic/ffmpeg", "/head/image_raw"),
        ("teleavatar_v1", "compressed", "/xr_video_topic/ffmpeg", "/xr_video_topic/ffmpeg/compressed"),
    ],
)
def test_cameras_are_recorded_in_the_form_asked_for(rosbag2, robot, images, expected, unexpected):
    (recorder,) = RECORD.processes({"robot": robot, "images": images, "output": "bag"}, rosbag2)
    assert expected in recorder.command
    assert unexpected not in recorder.command


def test_a_video_stream_is_recorded_from_the_topic_of_its_receiver(rosbag2):
    (recorder,) = RECORD.processes({"robot": "teleavatar_v2", "output": "bag"}, rosbag2)
    assert "recorded while the policy node receives it, from /stream/ffmpeg" in recorder.note
    assert recorder.command.count("/stream/ffmpeg") == 1 and "None" not in recorder.command


def test_a_simulated_stream_goes_to_a_free_port_that_the_policy_node_is_told():
    processes = bringup(sim="true", robot="teleavatar_v2")
    port = processes["simulated_robot"].parameters["stream_port"]
    assert port == processes["policy_node"].parameters["stream_port"] and port not in (0, 8890)
    assert "stream_port" not in bringup(robot="teleavatar_v2")["policy_node"].parameters


def test_size_duration_compression_and_simulated_time_are_passed_on(rosbag2):
    given = {"max_size_mb": "500", "max_duration_s": "60", "compression": "zstd_fast", "use_sim_time": "true"}
    (recorder,) = RECORD.processes(given, rosbag2)
    text = " ".join(recorder.command)
    assert "--max-bag-size 500000000 --max-bag-duration 60 --use-sim-time" in text
    assert "--storage-preset-profile zstd_fast" in text
    assert "/clock" in recorder.command
    assert recorder.command[6].startswith("teleavatar_20"), "the folder is named after robot and time"


def test_a_recording_is_never_overwritten(rosbag2, tmp_path):
    with pytest.raises(UserError, match="is already there"):
        RECORD.processes({"output": str(tmp_path)}, rosbag2)


def test_bringup_records_too_and_goes_on_without_its_recorder(rosbag2):
    processes = bringup(rosbag2, sim="true", record="true")
    assert not processes["recorder"].required
    assert "/sim/task" in processes["recorder"].command


# --- what else must agree ---


def test_executables_and_modules_are_those_of_the_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for process in bringup(sim="true", publish_commands="true").values():
        assert scripts[process.executable] == f"{process.module}:main"
    for name in ("policy_node", "monitor", "demo"):
        module, _, function = scripts[name].partition(":")
        assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
