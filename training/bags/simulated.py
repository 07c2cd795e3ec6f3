"""Which topics of a recording say what only a simulation knows: where objects are, and what would have been right."""

from __future__ import annotations

from dataclasses import dataclass

from .faults import BagError
from .reading import Bag

POSES, NAMES, CHUNKS = "/sim/object_poses", "/sim/object_names", "/sim/planned_chunk"
TYPES = {
    POSES: "geometry_msgs/msg/PoseArray",
    NAMES: "std_msgs/msg/String",
    CHUNKS: "pi05_progress_msgs/msg/ActionChunk",
}


@dataclass(frozen=True)
class Truth:
    """What a recording has of it."""

    objects: tuple[str, ...] = ()  # whose poses are there, in their order; none if they are not named
    chunk_s: float = 0.0  # how long the planned chunks are; 0 if there are none


def find_truth(bag: Bag) -> Truth:
    """Look at the first message of each of these topics; a ``BagError`` if they contradict one another."""
    first = {
        topic: bag.deserialize(next(bag.messages({topic})))
        for topic, kind in TYPES.items()
        if topic in bag.topics and bag.topics[topic].used and bag.topics[topic].type == kind
    }
    objects = tuple(first[NAMES].data.split(",")) if {POSES, NAMES} <= first.keys() else ()
    if objects and len(objects) != (count := len(first[POSES].poses)):
        raise BagError(f"{POSES} has {count} poses, {NAMES} {len(objects)} names: record the episode anew")
    chunk = first.get(CHUNKS)
    return Truth(objects, 0.0 if chunk is None else (chunk.horizon - 1) * float(chunk.dt))
