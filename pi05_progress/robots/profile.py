"""Everything that differs between robots, read from ``config/<profile>.yaml`` into one frozen value.

The file's comments explain each field; units are in the names or there. Nothing else in the code knows a topic, and
nothing but ``profile.layout`` says how many arms and joints there are.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..files.config_files import config_folder
from ..files.validation import problem
from ..observation import IMAGE_KEYS
from .layout import QUANTITIES, GripperCurve, Layout
from .yaml_lines import ConfigError, read_document

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
PACKET_TYPE = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
TRANSPORTS = {
    "raw": ("", IMAGE_TYPE),
    "compressed": ("/compressed", COMPRESSED_TYPE),
    "ffmpeg": ("/ffmpeg", PACKET_TYPE),
}

Topic = Annotated[str, Field(pattern=r"^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Quantity = Literal[QUANTITIES]
Kind = Literal["arms", "grippers"]
DEFAULT = "teleavatar"  # also says what a complete profile of one's own, written before these keys, does not:
LATER_KEYS = ("gripper_curves", "model_columns", "action_units")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class CameraProfile(_Section):
    """How one camera arrives and which part of its picture the model gets."""

    model_input: Literal[IMAGE_KEYS]
    topic: Topic | None
    type: Literal["sensor_msgs/msg/Image", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "rtp"]
    transport: Literal["raw", "compressed", "ffmpeg"] = "raw"
    size: Size  # width, height
    rate_hz: Positive
    delay_s: Annotated[float, Field(ge=0, le=1)] = 0.0
    turned: bool
    eye: Literal["left", "right"] | None
    tile: str | None

    @property
    def source(self) -> tuple[str | None, str]:
        """Topic and message type as which its pictures come."""
        if self.type != IMAGE_TYPE:
            return self.topic, self.type
        suffix, kind = TRANSPORTS[self.transport]
        return f"{self.topic}{suffix}", kind

    @property
    def shape(self) -> float:
        """Width over height of what the model gets of a picture: of one eye, where both come."""
        width, height = self.size
        return (width / 2 if self.eye and width >= 2 * height else width) / height

    @property
    def compressed_topic(self) -> str:
        """Where ``CompressedImage`` is published beside the raw topic."""
        return f"{self.topic}/compressed"


class StreamProfile(_Section):
    """One RTP video stream that holds all cameras."""

    codec: Literal["hevc", "h264"]
    topic: Topic = "/stream/ffmpeg"
    port: Annotated[int, Field(gt=0, lt=65536)]
    payload_type: Annotated[int, Field(ge=0, lt=128)]
    clock_rate_hz: Annotated[int, Field(gt=0)]
    size: Size
    rate_hz: Positive
    tiles: dict[str, tuple[Fraction, Fraction, Fraction, Fraction]]


class ArmProfile(_Section):
    """Joints and topics of one arm."""

    joints: Annotated[tuple[str, ...], Field(min_length=1)]
    ranges: tuple[tuple[Finite, Finite], ...]
    state_topic: Topic
    target_topic: Topic
    command_topic: Topic
    teleoperation_topic: Topic
    state_pose_topic: Topic
    target_pose_topic: Topic
    max_effort: tuple[Positive, ...] | None = None  # N m

    @model_validator(mode="after")
    def _check(self) -> ArmProfile:
        for key, values in (("ranges", self.ranges), ("max_effort", self.max_effort)):
            if values is not None and len(values) != len(self.joints):
                raise ValueError(f"{key}: {len(values)} {key} for {len(self.joints)} joints; each joint needs one")
        for joint, (lower, upper) in zip(self.joints, self.ranges, strict=True):
            if lower >= upper:
                raise ValueError(f"ranges: {joint} has lower {lower} not below upper {upper}")
        return self

    def limits(self) -> np.ndarray:
        """(n, 2) lower and upper joint limits, rad."""
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
    kp: tuple[Positive, ...]
    v_max: tuple[Positive, ...]
    speed_share: Annotated[float, Field(gt=0, le=1)]
    target_timeout_s: Positive
    state_timeout_s: Positive


class Columns(_Section):
    """Which of a joint's numbers counts; None for joints that are left out."""

    arms: Quantity | None
    grippers: Quantity | None


class ModelColumns(_Section):
    """What of the robot's numbers the model reads and answers."""

    state: Columns
    action: Columns
    relative: tuple[Kind, ...]

    @model_validator(mode="after")
    def _check(self) -> ModelColumns:
        if self.action.arms is None or self.action.grippers is None:
            raise ValueError("action: every joint needs a number, null is for state only")
        for kind in self.relative:
            if getattr(self.action, kind) != getattr(self.state, kind):
                raise ValueError(f"relative: {kind} cannot be relative to what state does not have of them")
        return self


Points = Annotated[tuple[tuple[Finite, Fraction], ...], Field(min_length=2)]  # effort, command number


class MarksProfile(_Section):
    """The operator's buttons that start and end an episode."""

    topic: Topic
    start_button: Annotated[int, Field(ge=0)]
    stop_button: Annotated[int, Field(ge=0)]


class DeadManProfile(_Section):
    """The button that a person holds as long as the robot may be commanded."""

    topic: Topic
    button: Annotated[int, Field(ge=0)]


class BoxProfile(_Section):
    """A box that stands along the axes of the robot's root frame, m."""

    centre: tuple[Finite, Finite, Finite]
    size: tuple[Positive, Positive, Positive]


class GeometryProfile(_Section):
    """What the arms are made of, and what they keep away from, m."""

    file: str
    margin: Positive
    finger_margin: Finite
    boxes: dict[str, BoxProfile]


class RobotProfile(_Section):
    """One robot: cameras, joints, topics, limits and command style. Make it with ``load``."""

    name: str
    description: str
    production_domain: Annotated[int, Field(ge=0, le=232)] | None
    vector_size: int
    cameras: dict[str, CameraProfile]
    stream: StreamProfile | None
    arms: Annotated[dict[Name, ArmProfile], Field(min_length=1)]
    grippers: dict[str, GripperProfile]
    gripper_curve: str
    gripper_curves: dict[str, dict[str, Points]]
    gripper_closed: Literal[0, 1]
    model_columns: ModelColumns
    action_units: dict[Kind, str]
    arm_command: Literal["relay", "direct"]
    relay: RelayProfile | None
    enable_topic: Topic
    enable_timeout_s: Positive
    fsm_topic: Topic
    mode_topic: Topic
    marks: MarksProfile
    tested_stop: str | None = None
    dead_man: DeadManProfile | None = None
    geometry: GeometryProfile | None = None

    @model_validator(mode="after")
    def _check(self) -> RobotProfile:
        self._check_numbers()
        inputs = [camera.model_input for camera in self.cameras.values()]
        if not inputs or len(set(inputs)) != len(inputs):
            needed = f"at least one of {', '.join(IMAGE_KEYS)} is needed, and none twice"
            raise ValueError(f"cameras: model inputs are {sorted(inputs)}; {needed}")
        for key, camera in self.cameras.items():
            if (camera.type == "rtp") != (camera.topic is None):
                raise ValueError(f"cameras.{key}: a topic is needed for messages, and none for rtp")
            if camera.transport != "raw" and camera.type != IMAGE_TYPE:
                raise ValueError(f"cameras.{key}: transport {camera.transport} is for topics of type {IMAGE_TYPE}")
            if camera.type == "rtp" and (self.stream is None or camera.tile not in self.stream.tiles):
                raise ValueError(f"cameras.{key}: tile {camera.tile!r} is not among stream.tiles")
        if self.arm_command == "relay" and self.relay is None:
            raise ValueError("relay: needed because arm_command is relay")
        return self

    def _check_numbers(self) -> None:
        if strange := ", ".join(sorted(set(self.grippers) - set(self.arms))):
            raise ValueError(f"grippers: {strange}: no arm of that name; a gripper belongs to an arm")
        joints = [joint for arm in self.arms for joint in self._joints(arm)]
        if twice := sorted({joint for joint in joints if joints.count(joint) > 1}):
            raise ValueError(f"arms and grippers: joints {', '.join(twice)} are named more than once")
        if self.gripper_curve not in self.gripper_curves:
            known = ", ".join(self.gripper_curves)
            raise ValueError(f"gripper_curve: {self.gripper_curve!r} is not among gripper_curves, which are {known}")
        where = f"gripper_curves.{self.gripper_curve}"
        for gripper in self.grippers:
            if (points := self.gripper_curves[self.gripper_curve].get(gripper)) is None:
                raise ValueError(f"{where}: gripper {gripper} is missing")
            efforts, commands = np.diff(points, axis=0).T
            if (efforts <= 0).any() or not ((commands > 0).all() or (commands < 0).all()):
                told = "efforts must rise from point to point, and command numbers rise or fall"
                raise ValueError(f"{where}: {gripper}: {told}")
        if missing := set(get_args(Kind)) - set(self.action_units):
            raise ValueError(f"action_units: {', '.join(sorted(missing))} is missing")
        if self.vector_size not in self.layout.vector_sizes:
            sizes = " or ".join(map(str, self.layout.vector_sizes))
            raise ValueError(f"vector_size: {self.vector_size}, vectors of these joints have {sizes} numbers")
        for name, arm in self.arms.items():
            for key in ("kp", "v_max"):
                if self.relay and (count := len(getattr(self.relay, key))) != len(arm.joints):
                    raise ValueError(f"relay: {count} numbers of {key}, arm {name} has {len(arm.joints)} joints")

    def target_topics(self) -> dict[str, str]:
        """Per arm the topic of a policy's joint targets: the relay's, where the robot has one, else the robot's own."""
        relayed = self.arm_command == "relay"
        return {name: arm.target_topic if relayed else arm.command_topic for name, arm in self.arms.items()}

    def turned(self, gripper: float) -> float:
        """A gripper's command number as its opening, 0 closed .. 1 open, and the other way round."""
        return gripper if self.gripper_closed == 0 else 1 - gripper

    def seen_arms(self, camera: str) -> tuple[str, ...]:
        """Names of the arms' inputs with which a camera's picture changes: a wrist's is its own arm's, else any."""
        wrist = self.cameras[camera].model_input.partition("_")[0]
        return tuple(f"{arm}_arm" for arm in ([wrist] if wrist in self.arms else self.arms))

    def has_numbers_of(self, robot: str, but_grippers: bool = False) -> bool:
        """Whether states, actions and pictures of a known robot mean the same as this one's, however they arrive;
        ``but_grippers``: these may be commanded by other numbers."""
        try:
            other = RobotProfile.load(robot)
        except ConfigError:
            return False
        keys = ["arms", "grippers", "gripper_curves", "model_columns", "action_units"]
        keys += [] if but_grippers else ["gripper_curve", "gripper_closed"]
        return self.layout.cameras == other.layout.cameras and all(getattr(self, k) == getattr(other, k) for k in keys)

    def joint_parts(self) -> dict[str, ArmProfile | GripperProfile]:
        """Arms and grippers by the names of their inputs, in the layout's order: ``left_arm``, ``left_gripper``, ..."""
        parts = {"arm": self.arms, "gripper": self.grippers}
        return {f"{arm}_{part}": of[arm] for arm in self.arms for part, of in parts.items() if arm in of}

    def _joints(self, arm: str) -> list[str]:
        """Names of an arm's joints, its gripper's at the end."""
        return [*self.arms[arm].joints, *([self.grippers[arm].joint] if arm in self.grippers else [])]

    def model_copy(self, **options: Any) -> RobotProfile:
        """A copy with changed values (pydantic's ``update``), and with their layout."""
        copy = super().model_copy(**options)
        copy.__dict__.pop("layout", None)
        return copy

    @functools.cached_property
    def layout(self) -> Layout:
        """Names, order, units and limits of the robot's numbers, and which of them the model reads and answers."""
        arms, grippers, joints, limits, kinds = {}, {}, [], [], []
        for name, arm in self.arms.items():
            arms[name] = slice(len(joints), len(joints) + len(arm.joints))
            limits += arm.ranges
            kinds += ["arms"] * len(arm.joints)
            if name in self.grippers:
                grippers[name] = arms[name].stop
                limits.append((-np.inf, np.inf))
                kinds.append("grippers")
            joints += self._joints(name)

        def columns(of: Columns) -> np.ndarray:
            wanted = [getattr(of, kind) for kind in kinds]
            return np.array([QUANTITIES.index(q) * len(joints) + at for at, q in enumerate(wanted) if q], int)

        model = self.model_columns
        curves = self.gripper_curves[self.gripper_curve]
        return Layout(
            joints=tuple(joints),
            arms=arms,
            grippers=grippers,
            limits=np.array(limits, float),
            state_columns=columns(model.state),
            action_columns=columns(model.action),
            action_units=tuple(self.action_units[kind] for kind in kinds),
            relative=np.isin(kinds, model.relative),
            curves={name: GripperCurve(*zip(*curves[name], strict=True)) for name in grippers},
            cameras={key: camera.model_input for key, camera in self.cameras.items()},
        )

    @classmethod
    def load(cls, name: str | Path) -> RobotProfile:
        """A profile by name (a file of ``config/``) or by the path of a YAML file; a ``ConfigError`` if there is none,
        or the file holds something wrong: file, line and key are named."""
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = config_folder() / f"{name}.yaml"
            if str(name) not in (known := known_profiles()):
                remedy = f"known profiles: {', '.join(known)}; or give the path of a YAML file"
                raise ConfigError(f"unknown robot profile {str(name)!r}; {remedy}")
        document = read_document(path)
        base = read_document(config_folder() / f"{DEFAULT}.yaml").data
        try:
            return cls.model_validate({key: base[key] for key in LATER_KEYS} | document.data)
        except ValidationError as error:
            raise ConfigError("; ".join(f"{document.where(e['loc'])}: {problem(e)}" for e in error.errors())) from None


def known_profiles() -> list[str]:
    """Names of the profiles in ``config/``: other files there have no ``name``."""
    files = config_folder().glob("*.yaml")
    return sorted(path.stem for path in files if re.search(r"(?m)^name:", path.read_text(encoding="utf-8")))
