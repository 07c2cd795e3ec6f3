"""What only some data sets have: frames that are not to be imitated, what was right instead, and where objects are."""

import dataclasses

import numpy as np
import pytest
from small_datasets import TWO_TASKS, lerobot_copy
from small_loading import LENGTHS, MODEL, add_column, loader

from pi05_progress.models.config import PointsConfig
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import normalize
from training.datasets import layout
from training.loading.config import DataConfigError

ROBOT = RobotProfile.load("teleavatar").layout
FRAMES = sum(LENGTHS)
LOCATING = dataclasses.replace(
    MODEL, vision="points", siglip=None, points=PointsConfig(), positions=("blue_cube", "red_cube", "basket")
)
# Of the second episode, which begins at row 12: a mistake from its frame 10 to 13, and its last frame.
BAD = [22, 23, 24, 41]


@pytest.fixture
def root(tmp_path):
    return lerobot_copy(tmp_path)


def samples_of(root, model=MODEL, **config):
    """All samples by row of the data set; nothing is held out."""
    with loader(root, model=model, resident=True, validation_fraction=0, **config) as data:
        return data.all_samples(), data.notes


def test_actions_end_before_a_mistake_and_do_not_count_within_it(root):
    plain, _ = samples_of(root)
    add_column(root, layout.DEMONSTRATION_VALID, layout.scalar("bool"), ~np.isin(np.arange(FRAMES), BAD))
    samples, notes = samples_of(root)
    assert np.flatnonzero(samples.action_weight == 0).tolist() == BAD
    assert "4 frames are not to be imitated (demonstration.valid)" in notes
    pad = samples.action_is_pad.astype(int).tolist()
    assert pad[20] == [0, 0, 1, 1, 1, 1] and pad[25] == [0] * 6 and pad[40] == [0, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(samples.actions[20, 1:], np.repeat(samples.actions[20, 1:2], 5, axis=0))
    np.testing.assert_array_equal(samples.actions[20, :2], plain.actions[20, :2])
    far = [row for row in range(FRAMES) if not any(row <= bad < row + 6 for bad in BAD)]  # no mistake within the chunk
    np.testing.assert_array_equal(samples.actions[far], plain.actions[far])
    np.testing.assert_array_equal(samples.action_is_pad[far], plain.action_is_pad[far])


@pytest.mark.parametrize(("interventions", "learnt"), [("only", True), ("also", None), ("never", False)])
def test_whose_actions_are_learnt_is_chosen_by_who_commanded(root, interventions, learnt):
    taken = (np.arange(FRAMES) >= 20) & (np.arange(FRAMES) < 26)  # of the second episode
    add_column(root, layout.INTERVENTION, layout.scalar("bool"), taken)
    samples, notes = samples_of(root, interventions=interventions)
    right = np.ones(FRAMES, bool) if learnt is None else taken == learnt
    np.testing.assert_array_equal(samples.action_weight, right.astype(np.float32))
    pad = samples.action_is_pad[[18, 23]].sum(1).tolist()  # chunks that count, of 6 rows, end where another commands
    assert pad == {"only": [0, 3], "also": [0, 0], "never": [4, 0]}[interventions]
    wrong = FRAMES - right.sum()
    said = f"{wrong} frames are not to be imitated (demonstration.valid, --data.interventions {interventions})"
    assert (said in notes) == (interventions != "also")
    with loader(root, interventions=interventions, validation_fraction=0, batch_size=FRAMES) as data:
        batch = next(data)
    rows = [sum(LENGTHS[:episode]) + frame for _, episode, frame in batch.origin.tolist()]
    np.testing.assert_array_equal(batch.action_weight, right[rows].astype(np.float32))


def test_corrections_that_are_not_there_cannot_be_learnt(root):
    with pytest.raises(DataConfigError, match=r"interventions only: in no frame .* had an operator taken over"):
        loader(root, interventions="only")


def test_what_was_right_is_learnt_where_something_else_was_executed(root):
    chunks = np.random.default_rng(0).uniform(-1, 1, (FRAMES, 4, ROBOT.action_size)).astype(np.float32)
    names = [f"{joint}.{row}" for row in range(4) for joint in ROBOT.joints]
    add_column(root, layout.DEMONSTRATION_ACTIONS, layout.vector(names), chunks.reshape(FRAMES, -1))
    with loader(root, resident=True, validation_fraction=0, quantiles=False) as data:
        samples, stats = data.all_samples(), data.stats["actions"]
    learnt = samples.actions[..., : ROBOT.action_size]
    np.testing.assert_allclose(learnt[:, :4], normalize(chunks, stats, False), atol=1e-4)
    np.testing.assert_array_equal(learnt[:, 4:], np.repeat(learnt[:, 3:4], 2, axis=1))
    assert samples.action_is_pad.astype(int).tolist() == [[0, 0, 0, 0, 1, 1]] * FRAMES


def test_positions_are_those_that_the_model_names_and_count_where_they_are_known(root):
    truth = np.random.default_rng(0).uniform(0.1, 1, (FRAMES, 6)).astype(np.float32)
    truth[:5] = 0  # before they are known
    names = [f"{name}.{axis}" for name in ("red_cube", "blue_cube") for axis in "xyz"]
    add_column(root, layout.TRUTH_POSITIONS, layout.vector(names), truth)
    with loader(root, model=LOCATING, resident=True) as data:
        samples = data.all_samples().observation, data.all_samples().origin
        rows = [sum(LENGTHS[:episode]) + frame for _, episode, frame in samples[1].tolist()]
        (*_, last) = data.validation_batches(8)
    np.testing.assert_array_equal(samples[0].positions[:, 0], truth[rows, 3:])
    np.testing.assert_array_equal(samples[0].positions[:, 1], truth[rows, :3])
    known = np.array(rows)[:, None] >= 5
    np.testing.assert_array_equal(samples[0].positions_mask, known & [True, True, False])
    assert not last.observation.positions_mask[last.origin[:, 0] < 0].any()
    with loader(root, resident=True) as data:  # a model that names none
        assert data.all_samples().observation.positions is None
    other = dataclasses.replace(LOCATING, positions=("cup",))
    with pytest.raises(DataConfigError, match=r"is of red_cube, blue_cube, model\.positions names cup"):
        loader(root, model=other)


def test_data_without_positions_trains_a_model_that_names_some():
    with loader(TWO_TASKS, model=LOCATING) as data:
        assert next(data).observation.positions is None
        assert not data.has_positions
