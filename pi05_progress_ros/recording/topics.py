"""What is recorded of a robot and its policy, for the recorder node and for rosbag2. No ROS in here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

JOINT_HZ = (100.0, 200.0)  # the robots' joint states come at such rates
EVENTS = "episode_event"  # in the policy's namespace; the recorder node publishes it
JOINT_STATE, POSE, JOY = "sensor_msgs/msg/JointState", "geometry_msgs/msg/Pose", "sensor_msgs/msg/Joy"
FLOAT, INT, STRING = "std_msgs/msg/Float32", "std_msgs/msg/Int32", "std_msgs/msg/String"
POLICY_TOPICS = {
    "task_progress": "pi05_progress_msgs/msg/TaskProgress",
    "task_progress/percent": FLOAT,
    "action_chunk": "pi05_progress_msgs/msg/ActionChunk",
    EVENTS: "pi05_progress_msgs/msg/EpisodeEvent",
}
SIM_TOPICS = {
    "/clock": "rosgraph_msgs/msg/Clock",
    "/sim/progress": FLOAT,
    "/sim/task": STRING,
    "/sim/events": "pi05_progress_msgs/msg/EpisodeEvent",
    "/sim/object_poses": "geometry_msgs/msg/PoseArray",
    "/sim/object_names": STRING,
}


@dataclass(frozen=True)
class RecordedTopic:
    """One topic worth keeping."""

    name: str  # absolute
    type: str  # as ``package/msg/Name``
    required: bool = False  # whether an episode without it is of no use
    # lowest and highest usual rate; 0 and infinity where nothing is known
    expected_hz: tuple[float, float] = (0.0, math.inf)


def recorded_topics(
    profile: RobotProfile, namespace: str = "/", images: str = "raw", commands: str = "teleoperation", sim: bool = False
) -> list[RecordedTopic]:
    """Everything worth keeping: cameras, states, poses, the operator's and the policy's commands, events, modes.

    Args:
        profile: whose topics.
        namespace: of the policy node, absolute.
        images: which form of ``Image`` topics, ``raw`` (or as the profile's ``transport`` says), ``compressed`` or
            ``none`` of the cameras; packets of a video codec are recorded as they are.
        commands: whose commands are required, beside cameras, arms and grippers: ``teleoperation``, ``policy`` or
            ``none``.
        sim: whether to add what only a simulation publishes.
    """
    operator, policy = commands == "teleoperation", commands == "policy"
    topics = [] if images == "none" else _cameras(profile, images == "compressed")
    followed = profile.target_topics()
    for side, arm in profile.arms.items():
        topics.append(RecordedTopic(arm.state_topic, JOINT_STATE, True, JOINT_HZ))
        topics += [RecordedTopic(name, POSE) for name in (arm.state_pose_topic, arm.target_pose_topic)]
        topics.append(RecordedTopic(arm.teleoperation_topic, JOINT_STATE, operator))
        for name in (arm.target_topic, arm.command_topic):
            topics.append(RecordedTopic(name, JOINT_STATE, policy and name == followed[side]))
    for gripper in profile.grippers.values():
        topics.append(RecordedTopic(gripper.state_topic, JOINT_STATE, True, JOINT_HZ))
        topics.append(RecordedTopic(gripper.teleoperation_topic, JOINT_STATE, operator))
        topics.append(RecordedTopic(gripper.command_topic, FLOAT, policy))
    others = {profile.enable_topic: FLOAT, profile.fsm_topic: INT, profile.mode_topic: STRING, profile.marks.topic: JOY}
    others |= {f"{namespace.rstrip('/')}/{name}": kind for name, kind in POLICY_TOPICS.items()}
    others |= {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"} | (SIM_TOPICS if sim else {})
    topics += [RecordedTopic(name, kind) for name, kind in others.items()]
    return list({topic.name: topic for topic in topics}.values())  # a profile may use a topic twice


def _cameras(profile: RobotProfile, compressed: bool) -> list[RecordedTopic]:
    # Here: it is not needed, and perhaps not installed, where arguments are listed.
    from pi05_progress.robots.profile import IMAGE_TYPE, PACKET_TYPE

    topics = []
    for camera in profile.cameras.values():
        rate = (camera.rate_hz, camera.rate_hz)
        if compressed and camera.type == IMAGE_TYPE:
            topics.append(RecordedTopic(camera.compressed_topic, "sensor_msgs/msg/CompressedImage", True, rate))
        elif camera.topic:
            topics.append(RecordedTopic(*camera.source, True, rate))
        else:  # what receives the stream publishes it; one for all cameras
            topics.append(RecordedTopic(profile.stream.topic, PACKET_TYPE, True, (0.0, profile.stream.rate_hz)))
    return topics
