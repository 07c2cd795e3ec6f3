"""The same episodes, in lockstep, through the cameras of every profile: the shipped checkpoint judges them alike."""

from dataclasses import dataclass

import numpy as np
import pytest
from places import ROOT
from rosbags.highlevel import AnyReader

from pi05_progress.estimate.estimator import ProgressEstimator
from pi05_progress.make_policy import make_policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.messages import robot_frame
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.video_packets import PacketDecoder, VideoPicture
from pi05_progress_ros.sim.episodes.generation import EpisodeMaker, GenerationOptions

PROFILES = ("teleavatar", "teleavatar_v1", "teleavatar_v2")
RATE_HZ, SEEDS = 5, (6000, 6001)
JUDGE, APART, WORSE = (
    "tiny_acting",
    0.03,
    0.02,
)  # mean difference of progress, and error against truth above the default's, at most


@dataclass
class Course:
    """One episode: raw and published progress, and the truth, per inference."""

    raw: np.ndarray
    published: np.ndarray
    truth: np.ndarray


def pictures_of(bag, profile):
    """Per picture time the newest messages of all cameras and joints, decoded as the node does."""
    sources = {camera.source[0] or profile.stream.topic: key for key, camera in profile.cameras.items()}
    sources |= {camera.compressed_topic: key for key, camera in profile.cameras.items() if camera.topic}
    parts = {part.state_topic: name for name, part in profile.joint_parts().items()}
    images, joints, decoders = {}, {}, {}
    with AnyReader([bag], default_typestore=message_store()) as reader:
        for connection, time_ns, data in reader.messages():
            topic = connection.topic
            if topic not in sources and topic not in parts:
                continue
            message = reader.deserialize(data, connection.msgtype)
            if topic in parts:
                joints[parts[topic]] = message
            elif profile.stream:
                ((_, frame),) = decoders.setdefault(topic, PacketDecoder()).decode(message, time_ns)
                for key, camera in profile.cameras.items():
                    images[key] = VideoPicture(time_ns, frame, profile.stream.tiles[camera.tile])
            elif "FFMPEGPacket" in connection.msgtype:
                ((_, frame),) = decoders.setdefault(topic, PacketDecoder()).decode(message, time_ns)
                images[sources[topic]] = VideoPicture(time_ns, frame)
            else:
                images[sources[topic]] = message
            if len(images) == len(profile.cameras):
                yield time_ns, robot_frame(profile, images, joints)
                images = {}


def judged(folder, profile, task, seeds):
    """The course of each seed's episode, as the checkpoint sees it through the profile's cameras."""
    options = GenerationOptions(task, folder, picture_rate=RATE_HZ, joint_rate=10, profile=profile.name)
    policy = make_policy(profile, PolicyOptions(checkpoint=str(ROOT / "models" / JUDGE), noise="zero"))
    maker, found = EpisodeMaker(options), []
    for seed in seeds:
        facts = maker.make(seed)
        assert facts.outcome == "success", facts
        estimator, instruction, rows = (
            ProgressEstimator(durations_s=policy.durations_s, temporal_head=policy.temporal_head),
            maker._world.instruction,
            [],
        )
        times = [0.0, *(time_s for _, time_s in facts.milestones)]
        for time_ns, frame in pictures_of(options.bag(seed), profile):
            output, now_s = policy.infer(frame, instruction), (time_ns - options.start_ns(seed)) * 1e-9
            estimate = estimator.update(now_s, output, instruction)
            truth = np.interp(now_s, times, np.linspace(0, 1, len(times)))
            rows.append((output.progress, estimate.progress, truth))
        found.append(Course(*np.array(rows).T))
    maker.close()
    policy.close()
    return found


@pytest.mark.long
@pytest.mark.parametrize("task", ["stack_cubes", "place_in_basket"])
def test_the_three_profiles_show_the_same_progress_in_lockstep(tmp_path, task):
    courses = {name: judged(tmp_path / name, RobotProfile.load(name), task, SEEDS) for name in PROFILES}
    default = courses.pop("teleavatar")
    error = lambda many: np.mean(np.abs(np.concatenate([c.published - c.truth for c in many])))  # noqa: E731
    figures = {"teleavatar": (0.0, 0.0, error(default))}
    for name, many in courses.items():
        pairs = list(zip(many, default, strict=True))
        assert all(np.array_equal(a.truth, b.truth) for a, b in pairs), "the same episode"
        raw, published = (
            np.mean(np.abs(np.concatenate([getattr(a, kind) - getattr(b, kind) for a, b in pairs])))
            for kind in ("raw", "published")
        )
        figures[name] = (raw, published, error(many))
    text = "; ".join(f"{n}: apart {r:.4f} raw, {p:.4f} published, error {e:.4f}" for n, (r, p, e) in figures.items())
    print(f"{task}, seeds {SEEDS}: {text}")
    for name, (raw, published, mine) in figures.items():
        assert raw <= APART and published <= APART, (name, text)
        assert mine <= figures["teleavatar"][2] + WORSE, (name, text)
