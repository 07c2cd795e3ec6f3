"""Which topic of a recording serves which part of a frame, as the robot's profile says; and which say what only a
simulation knows: where objects are, and what would have been right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pi05_progress.robots.profile import IMAGE_TYPE, PACKET_TYPE
from pi05_progress.robots.video_packets import Box

from .faults import BagError
from .message_types import EVENT_TYPE
from .options import Options
from .reading import Bag, Topic

MARKS_TYPE = "sensor_msgs/msg/Joy"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
CAMERA_KINDS = {IMAGE_TYPE: "raw", COMPRESSED_TYPE: "compressed", PACKET_TYPE: "packets"}
OTHER_KINDS = {
    "sensor_msgs/msg/JointState": "joints",
    "std_msgs/msg/Float32": "number",
    "geometry_msgs/msg/Pose": "pose",
}
STREAM_HINT = "A camera that was recorded on a topic of its own: --camera KEY=TOPIC."
Kind = Literal["raw", "compressed", "packets", "joints", "number", "pose"]
POSES, NAMES, CHUNKS = "/sim/object_poses", "/sim/object_names", "/sim/planned_chunk"
TRUTH_TYPES = {
    POSES: "geometry_msgs/msg/PoseArray",
    NAMES: "std_msgs/msg/String",
    CHUNKS: "pi05_progress_msgs/msg/ActionChunk",
}
Role = Literal["camera", "state", "action", "operator"]  # the last: actions while the operator has taken over


@dataclass(frozen=True)
class Source:
    """One topic that is used."""

    part: str  # a camera's key, ``left_arm``, ``left_pose``, ...
    topic: str  # where it comes from
    kind: Kind  # how its messages are read
    role: Role  # what it is for
    delay_ns: int = 0  # by which its stamps are late
    box: Box | None = None  # of a camera in a stream: its part of a frame

    @property
    def name(self) -> str:
        """What it is in reports."""
        return f"{self.role} {self.part}" if self.role in ("action", "operator") else self.part

    @property
    def has_header(self) -> bool:
        """Whether its messages carry a stamp."""
        return self.kind not in ("number", "pose")

    @property
    def may_pause(self) -> bool:
        """Whether silence means that nothing has changed, not that something is missing."""
        return self.kind == "number"


@dataclass(frozen=True)
class Inputs:
    """All topics that are used of one recording."""

    sources: Mapping[str, Source]  # by name
    absent: tuple[str, ...]  # grippers that the recording does not have; their entries are 0
    events: str | None  # topic of ``EpisodeEvent``, or None
    marks: str | None  # topic of the operator's buttons, or None
    notes: tuple[str, ...] = ()  # choices that were made, for the report

    def of_role(self, role: Role) -> list[Source]:
        """The sources of one role."""
        return [source for source in self.sources.values() if source.role == role]

    def by_topic(self) -> dict[str, list[Source]]:
        """The sources of each topic; cameras in a stream share one."""
        topics = {source.topic for source in self.sources.values()}
        return {topic: [source for source in self.sources.values() if source.topic == topic] for topic in topics}


def choose_inputs(topics: Mapping[str, Topic], options: Options) -> Inputs:
    """The topics that a profile names; a ``BagError`` names what is always needed and missing, or cannot be read."""
    return _Choice(topics, options).made()


def common_absent(inputs: Sequence[Inputs]) -> tuple[str, ...]:
    """What most of the recordings do not have; of two that are as frequent, the one that lacks less."""
    counts = Counter(of.absent for of in inputs)
    return min(counts, key=lambda absent: (-counts[absent], len(absent), absent), default=())


class _Choice:
    def __init__(self, topics: Mapping[str, Topic], options: Options) -> None:
        self._topics = {name: topic for name, topic in topics.items() if topic.used}
        self._silent = topics.keys() - self._topics.keys()
        self._options, self._profile = options, options.profile
        self._prefix = options.namespace.rstrip("/")
        self._sources: dict[str, Source] = {}
        self._problems: list[str] = []
        self._hints: set[str] = set()
        self._notes: list[str] = []
        self._absent: list[str] = []

    def made(self) -> Inputs:
        if unknown := sorted(set(self._options.cameras) - set(self._profile.cameras)):
            known = ", ".join(self._profile.cameras)
            raise BagError(f"--camera {', '.join(unknown)}: no such camera; {self._profile.name} has {known}")
        for key in self._profile.cameras:
            self._camera(key)
        for arm in self._profile.arms:
            self._arm(arm)
            if arm in self._profile.grippers:
                self._gripper(arm)
        if self._options.actions == "policy":
            self._operators()
        if self._problems:
            raise BagError(" ".join([f"{'; '.join(self._problems)}.", *sorted(self._hints)]))
        marks = self._topics.get(self._named(self._profile.marks.topic))
        marks_topic = marks.name if marks and marks.type == MARKS_TYPE else None
        return Inputs(self._sources, tuple(self._absent), self._event_topic(), marks_topic, tuple(self._notes))

    def _named(self, topic: str) -> str:
        return f"{self._prefix}/{topic.lstrip('/')}" if self._prefix else topic

    def _camera(self, key: str) -> None:
        camera = self._profile.cameras[key]
        if key in self._options.cameras:
            candidates = [self._options.cameras[key]]
        elif camera.topic is None:
            self._add(key, self._named(self._profile.stream.topic), "camera", STREAM_HINT)
            return
        else:
            base = self._named(camera.topic).removesuffix("/ffmpeg")
            candidates = [self._named(camera.topic), base, f"{base}/compressed", f"{base}/ffmpeg"]
        present = [name for name in dict.fromkeys(candidates) if name in self._topics]
        if len(present) > 1:
            self._notes.append(f"{key} was recorded {len(present)} times; {present[0]} is used")
        elif present and present[0] != candidates[0]:
            self._notes.append(f"{key} comes from {present[0]}")
        self._add(key, (present or candidates)[0], "camera")

    def _arm(self, side: str) -> None:
        arm, part = self._profile.arms[side], f"{side}_arm"
        self._add(part, self._named(arm.state_topic), "state")
        if self._options.actions == "teleoperation":
            command, other, instead = arm.teleoperation_topic, arm.target_topic, "policy"
        else:
            direct = self._profile.arm_command == "direct"
            command = arm.command_topic if direct else arm.target_topic
            other, instead = arm.teleoperation_topic, "teleoperation"
        hint = f"Commands are there on {self._named(other)}: --actions {instead} takes those."
        self._add(part, self._named(command), "action", hint if self._named(other) in self._topics else "")
        without_poses, with_poses = self._profile.layout.vector_sizes
        if self._profile.vector_size == with_poses:
            self._add(f"{side}_pose", self._named(arm.state_pose_topic), "state")
            hint = f"Without end effector poses: --vector-size {without_poses}."
            self._add(f"{side}_pose", self._named(arm.target_pose_topic), "action", hint)

    def _gripper(self, side: str) -> None:
        gripper, part = self._profile.grippers[side], f"{side}_gripper"
        command = gripper.teleoperation_topic if self._options.actions == "teleoperation" else gripper.command_topic
        hint = "A robot without grippers: --allow-missing-grippers fills their entries with 0."
        for topic, role in ((self._named(gripper.state_topic), "state"), (self._named(command), "action")):
            if self._options.allow_missing_grippers and topic not in self._topics:
                self._absent.append(f"action {part}" if role == "action" else part)
            else:
                self._add(part, topic, role, hint)

    def _operators(self) -> None:
        """What the operator commands after a takeover, as far as it is there; it need not be."""
        commands = {f"{side}_arm": arm.teleoperation_topic for side, arm in self._profile.arms.items()}
        commands |= {f"{side}_gripper": of.teleoperation_topic for side, of in self._profile.grippers.items()}
        for source in [of for of in self._sources.values() if of.role == "action"]:
            topic = self._named(commands[source.part]) if source.part in commands else source.topic
            if topic in self._topics and self._topics[topic].type in OTHER_KINDS:
                self._add(source.part, topic, "operator")

    def _add(self, part: str, topic: str, role: Role, hint: str = "") -> None:
        """Take a topic for a part; where it is missing, that and the hint are told."""
        kinds = CAMERA_KINDS if role == "camera" else OTHER_KINDS
        found = self._topics[topic].type if topic in self._topics else ""
        delay_s, box = 0.0, None
        if role == "camera":
            camera, stream = self._profile.cameras[part], self._profile.stream
            delay_s = camera.delay_s
            box = stream.tiles[camera.tile] if stream and topic == self._named(stream.topic) else None
        source = Source(part, topic, kinds.get(found, "joints"), role, round(delay_s * 1e9), box)
        if not found:
            self._problems.append(f"{source.name}: {'no message' if topic in self._silent else 'nothing'} on {topic}")
            self._hints |= {hint} if hint else set()
            spaces = sorted(n.removesuffix(topic) for n in self._topics if n.endswith(topic) and n != topic)
            if spaces and not self._prefix:
                several = "Several robots are" if len(spaces) > 1 else "The robot is"
                self._hints.add(f"{several} recorded under {', '.join(spaces)}: choose with --namespace.")
        elif found not in kinds:
            self._problems.append(f"{source.name}: {topic} is of type {found}; expected {' or '.join(kinds)}")
        else:
            self._sources[source.name] = source
            if not source.has_header:
                self._notes.append(f"{source.name}: messages of {found} have no stamp; the time of reception is used")

    def _event_topic(self) -> str | None:
        of_type = [name for name, topic in self._topics.items() if topic.type == EVENT_TYPE]
        ordered = sorted(of_type, key=lambda name: (not name.endswith("/episode_event"), name))
        if len(ordered) > 1:
            self._notes.append(f"episode events from {ordered[0]}, not from {', '.join(ordered[1:])}")
        return ordered[0] if ordered else None


@dataclass(frozen=True)
class Truth:
    """What a recording has of it."""

    objects: tuple[str, ...] = ()  # whose poses are there, in their order; none if they are not named
    chunk_s: float = 0.0  # how long the planned chunks are; 0 if there are none


def find_truth(bag: Bag) -> Truth:
    """Look at the first message of each of these topics; a ``BagError`` if they contradict one another."""
    first = {
        topic: bag.deserialize(next(bag.messages({topic})))
        for topic, kind in TRUTH_TYPES.items()
        if topic in bag.topics and bag.topics[topic].used and bag.topics[topic].type == kind
    }
    objects = tuple(first[NAMES].data.split(",")) if {POSES, NAMES} <= first.keys() else ()
    if objects and len(objects) != (count := len(first[POSES].poses)):
        raise BagError(f"{POSES} has {count} poses, {NAMES} {len(objects)} names: record the episode anew")
    chunk = first.get(CHUNKS)
    return Truth(objects, 0.0 if chunk is None else (chunk.horizon - 1) * float(chunk.dt))
