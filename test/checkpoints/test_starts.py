"""What a checkpoint knows of how its training episodes began, and that faults planted in a recorded start are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoint_cases import SMALL, STATS, random_model
from places import ROOT

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.checkpoints.start_differences import unlike_joints, unlike_pictures, unlike_task
from pi05_progress.checkpoints.starts import Starts, add_starts, read_starts, starts_files
from pi05_progress.observation import RobotFrame
from pi05_progress.robots.profile import RobotProfile
from training.add_starts import main
from training.datasets.frames import FrameReader
from training.datasets.reader import open_dataset
from training.loading.starts import gather_starts

STACK_ONE = ROOT / "test/data/stack_one"
PROFILE = RobotProfile.load("teleavatar")
ARMS = PROFILE.layout.arm_columns


@pytest.fixture(scope="module")
def recorded():
    """How a recorded episode begins, and its frames there."""
    dataset = open_dataset(STACK_ONE)
    starts = gather_starts([dataset], PROFILE)
    ((_, columns),) = dataset.frames(["observation.state"], [0])
    with FrameReader(dataset.fps) as reader:
        spans = {key: dataset.episodes[0].videos[f"observation.images.{key}"] for key in PROFILE.cameras}
        frames = [
            RobotFrame({key: reader.read(span, i) for key, span in spans.items()}, columns["observation.state"][i])
            for i in range(3)
        ]
    return starts, frames


def causes(frame, starts):
    """Everything that is told of a frame."""
    pictures = (f"{key}: {text}" for key, text in unlike_pictures(frame, PROFILE, starts).items() if text)
    return "\n".join([*pictures, *unlike_joints(frame, PROFILE, starts)])


def state(change):
    def planted(frame):
        vector = np.array(frame.state)
        change(vector)
        return replace(frame, state=vector)

    return planted


def picture(change, key="head_camera"):
    return lambda frame: replace(frame, images={**frame.images, key: change(frame.images[key].astype(int))})


def swapped(one, other):
    return lambda frame: replace(frame, images={**frame.images, one: frame.images[other], other: frame.images[one]})


def exchange(vector, one, other):
    vector[one], vector[other] = vector[other].copy(), vector[one].copy()


def shifted(share):
    """Moves a picture to the right by a share of its width, the edge repeated."""

    def shift(image):
        columns = np.arange(image.shape[1]) - round(share * image.shape[1])
        return image[:, np.maximum(columns, 0)].astype(np.uint8)

    return shift


def scaled(columns, factor):
    def change(vector):
        vector[columns] *= factor

    return state(change)


PLANTED = {
    "wrists swapped": (swapped("left_color", "right_color"), "left_color: it shows what right_color showed"),
    "head swapped": (swapped("head_camera", "left_color"), "head_camera: it shows what left_color showed"),
    "upside down": (picture(lambda image: image[::-1, ::-1].astype(np.uint8)), "head_camera: it is upside down"),
    "moved": (picture(shifted(1 / 12), "right_color"), "right_color: it was moved"),
    "moved far": (picture(shifted(1 / 6), "right_color"), "right_color: it was moved"),
    "dim": (picture(lambda image: (0.7 * image).astype(np.uint8)), "head_camera: it is exposed otherwise, 0.7"),
    "covered": (picture(lambda image: (0 * image).astype(np.uint8)), "head_camera: it is dark"),
    "gripper's sign": (scaled([7], -1), "left_gripper has the wrong sign"),
    "gripper's scale": (scaled([15], 1000), "right_gripper has another scale, 1e+03 times"),
    "joint order": (state(lambda v: exchange(v, 1, 4)), "joints come in another order (l_joint2, l_joint5)"),
    "arms swapped": (state(lambda v: exchange(v, slice(0, 7), slice(8, 15))), "the arms are swapped"),
    "degrees": (scaled(ARMS, 180 / np.pi), "the arms' positions are in degrees"),
    "far": (state(lambda v: v.__setitem__(9, v[9] + 0.4)), "r_joint2 is 0.40 rad from where episodes"),
}


@pytest.mark.parametrize(("plant", "named"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_named_and_nothing_else_is_told(recorded, plant, named):
    starts, frames = recorded
    told = causes(plant(frames[0]), starts)
    assert told.startswith(named)
    assert told.count("\n") == named.count("it shows")  # of two cameras, where they are swapped


def test_of_clean_starts_nothing_is_told(recorded):
    starts, frames = recorded
    assert [causes(frame, starts) for frame in frames] == [""] * len(frames)


def test_an_instruction_is_to_be_one_that_was_trained_on():
    known = ["lift the red cube", "raise the red cube off the table"]
    assert unlike_task("lift the red cube", known) == ""
    assert "written otherwise than in the training data: 'lift the red cube'" in unlike_task(
        "Lift the red cube.", known
    )
    assert "was not trained on; the most similar instructions are 'lift" in unlike_task("lift a blue cube", known)


def starts_of(*poses):
    states = np.zeros((len(poses), 48), np.float32)
    states[:, ARMS] = np.asarray(poses)[:, None]
    return Starts.of(PROFILE, {}, states, ["a"])


def test_arms_are_far_beyond_what_99_percent_of_the_starts_are_from_one_another():
    assert starts_of(0, 0, 0).far_rad == pytest.approx(0.1)  # all at one pose: what no arm repeats better
    starts = starts_of(0, 0.3, 0.5)
    assert starts.far_rad == pytest.approx(0.5)
    assert starts.distance(np.full(14, 0.6))[0] == pytest.approx(0.1)
    assert starts.home == pytest.approx(np.full(14, 0.3))


def checkpoint(folder: Path):
    save_checkpoint(folder, Checkpoint(CheckpointInfo(SMALL, model_id="small"), random_model(SMALL), STATS))
    return folder


def test_starts_are_added_to_a_checkpoint_and_damage_is_noticed(tmp_path, monkeypatch, capsys):
    folder = checkpoint(tmp_path / "checkpoint")
    assert read_starts(folder, PROFILE) is None
    monkeypatch.setattr("sys.argv", ["add_starts", str(folder), str(STACK_ONE)])
    assert (
        main() == 0 and "1 starts, cameras base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb" in capsys.readouterr().out
    )
    starts, file = read_starts(folder, PROFILE), folder / "starts/starts.npz"
    assert starts.tasks.tolist() == list(open_dataset(STACK_ONE).tasks)
    assert len(file.read_bytes()) < 40_000
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"starts\.npz: damaged"):
        read_starts(folder, PROFILE)


def test_starts_of_another_robots_joints_are_refused(tmp_path):
    add_starts(tmp_path, starts_of(0))
    assert starts_files(read_starts(tmp_path, PROFILE)).keys() == {"starts/starts.npz", "starts.sha256"}
    arms = {"left": PROFILE.arms["left"]}
    other = PROFILE.model_copy(update={"arms": arms, "grippers": {}})
    with pytest.raises(CheckpointError, match=r"of joints l_joint1, .* does not have"):
        read_starts(tmp_path, other)
    joints = [PROFILE.arms["left"].joints[i] for i in (0, 4, 2, 3, 1, 5, 6)]
    arms = {**PROFILE.arms, "left": PROFILE.arms["left"].model_copy(update={"joints": joints})}
    turned = PROFILE.model_copy(update={"arms": arms})
    with pytest.raises(CheckpointError, match=r"joints come in another order \(l_joint5, l_joint2\): name them as the"):
        read_starts(tmp_path, turned)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"arms": np.zeros((0, 14), np.float32)}, "no starts"),
        ({"arms": np.zeros((1, 13), np.float32)}, "not a number for each joint"),
        ({"arms": np.full((1, 14), np.inf, np.float32)}, "not finite"),
        ({"tasks": np.array([Path()], object)}, "pickle"),
    ],
)
def test_starts_to_which_no_arm_may_go_are_refused(tmp_path, change, found):
    add_starts(tmp_path, replace(starts_of(0), **change))
    with pytest.raises(CheckpointError, match=rf"starts\.npz: cannot be read: .*{found}"):
        read_starts(tmp_path, PROFILE)
