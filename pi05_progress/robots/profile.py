"""Everything that differs between robots, read from ``config/<profile>.yaml`` into one frozen value.

The file's comments explain each field; units are in the names or there. Nothing else in the code knows a topic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..files.config_files import config_folder
from ..observation import IMAGE_KEYS
from .yaml_lines import ConfigError, Document, read_document

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
IMAGE_TYPE = "sensor_msgs/msg/Image"
PACKET_TYPE = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"

Topic = Annotated[str, Field(pattern=r"^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Seven = Annotated[tuple[Positive, ...], Field(min_length=7, max_length=7)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class CameraProfile(_Section):
    """How one camera arrives and which part of its picture the model gets."""

    model_input: Literal[IMAGE_KEYS]
    topic: Topic | None
    type: Literal["sensor_msgs/msg/Image", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "rtp"]
    size: Size  # width, height
    rate_hz: Positive
    turned: bool
    eye: Literal["left", "right"] | None
    tile: str | None

    @property
    def compressed_topic(self) -> str:
        """Where ``CompressedImage`` is published beside the raw topic."""
        return f"{self.topic}/compressed"


class StreamProfile(_Section):
    """One RTP video stream that holds all cameras."""

    codec: Literal["hevc", "h264"]
    port: Annotated[int, Field(gt=0, lt=65536)]
    payload_type: Annotated[int, Field(ge=0, lt=128)]
    clock_rate_hz: Annotated[int, Field(gt=0)]
    size: Size
    rate_hz: Positive
    tiles: dict[str, tuple[Fraction, Fraction, Fraction, Fraction]]


class ArmProfile(_Section):
    """Joints and topics of one arm."""

    joints: Annotated[tuple[str, ...], Field(min_length=7, max_length=7)]
    ranges: Annotated[tuple[tuple[Finite, Finite], ...], Field(min_length=7, max_length=7)]
    state_topic: Topic
    target_topic: Topic
    command_topic: Topic
    teleoperation_topic: Topic
    state_pose_topic: Topic
    target_pose_topic: Topic

    @model_validator(mode="after")
    def _check(self) -> ArmProfile:
        if len(set(self.joints)) != 7:
            raise ValueError("joints: seven different names are needed")
        for joint, (lower, upper) in zip(self.joints, self.ranges, strict=True):
            if lower >= upper:
                raise ValueError(f"ranges: {joint} has lower {lower} not below upper {upper}")
        return self

    def limits(self) -> np.ndarray:
        """(7, 2) lower and upper joint limits, rad."""
        return np.array(self.ranges)


class GripperProfile(_Section):
    """Joint and topics of one gripper."""

    joint: str
    state_topic: Topic
    command_topic: Topic
    teleoperation_topic: Topic


class RelayProfile(_Section):
    """The proportional relay of robots that follow velocities."""

    rate_hz: Positive
    kp: Seven
    v_max: Seven
    speed_share: Annotated[float, Field(gt=0, le=1)]
    target_timeout_s: Positive
    state_timeout_s: Positive


class MarksProfile(_Section):
    """The operator's buttons that start and end an episode."""

    topic: Topic
    start_button: Annotated[int, Field(ge=0)]
    stop_button: Annotated[int, Field(ge=0)]


class RobotProfile(_Section):
    """One robot: cameras, joints, topics, limits and command style. Make it with ``load``."""

    name: str
    description: str
    production_domain: Annotated[int, Field(ge=0, le=232)] | None
    vector_size: Literal[48, 62]
    cameras: dict[str, CameraProfile]
    stream: StreamProfile | None
    arms: dict[Side, ArmProfile]
    grippers: dict[Side, GripperProfile]
    gripper_curve: Literal["teleavatar", "teleavatar_v2"]
    gripper_closed: Literal[0, 1]
    arm_command: Literal["relay", "direct"]
    relay: RelayProfile | None
    enable_topic: Topic
    enable_timeout_s: Positive
    fsm_topic: Topic
    mode_topic: Topic
    marks: MarksProfile

    @model_validator(mode="after")
    def _check(self) -> RobotProfile:
        for what, found in (("arms", self.arms), ("grippers", self.grippers)):
            if missing := set(SIDES) - set(found):
                raise ValueError(f"{what}: {', '.join(sorted(missing))} is missing")
        inputs = sorted(camera.model_input for camera in self.cameras.values())
        if inputs != sorted(IMAGE_KEYS):
            raise ValueError(f"cameras: model inputs are {inputs}; each of {', '.join(IMAGE_KEYS)} is needed once")
        for key, camera in self.cameras.items():
            if (camera.type == "rtp") != (camera.topic is None):
                raise ValueError(f"cameras.{key}: a topic is needed for messages, and none for rtp")
            if camera.type == "rtp" and (self.stream is None or camera.tile not in self.stream.tiles):
                raise ValueError(f"cameras.{key}: tile {camera.tile!r} is not among stream.tiles")
        if self.arm_command == "relay" and self.relay is None:
            raise ValueError("relay: needed because arm_command is relay")
        return self

    @classmethod
    def load(cls, name: str | Path) -> RobotProfile:
        """A profile by name (a file of ``config/``) or by the path of a YAML file.

        Raises:
            ConfigError: no such profile, or the file holds something wrong; file, line and key are named.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = config_folder() / f"{name}.yaml"
            if str(name) not in known_profiles():
                raise ConfigError(
                    f"unknown robot profile {str(name)!r}; known profiles: {', '.join(known_profiles())}; "
                    "or give the path of a YAML file"
                )
        document = read_document(path)
        try:
            return cls.model_validate(document.data)
        except ValidationError as error:
            raise ConfigError("\n".join(_problem(document, e) for e in error.errors())) from None

    def joint_names(self) -> list[str]:
        """Names of the 16 action columns: left arm, left gripper, right arm, right gripper."""
        return [name for side in SIDES for name in (*self.arms[side].joints, self.grippers[side].joint)]


def known_profiles() -> list[str]:
    """Names of the profiles in ``config/``."""
    names = (path.stem for path in config_folder().glob("teleavatar*.yaml"))
    return sorted(name for name in names if name != "teleavatar_arms")


def _problem(document: Document, error: dict) -> str:
    if error["type"] == "missing":
        return f"{document.where(error['loc'])}: is missing"
    if error["type"] == "extra_forbidden":
        return f"{document.where(error['loc'])}: unknown key"
    found = "" if isinstance(error["input"], dict | BaseModel) else f" (found {error['input']!r})"
    return f"{document.where(error['loc'])}: {error['msg'].removeprefix('Value error, ')}{found}"
