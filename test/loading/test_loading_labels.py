"""What counts of the loader's samples: labels, actions of failures, mixtures, and what is made wrong on purpose."""

import types

import numpy as np
import pytest
from small_datasets import TWO_TASKS, lerobot_copy
from small_loading import LENGTHS, change_column, labelled, origins, prompts, take

from pi05_progress.robots.episode_notes import CUT_OFF
from training.datasets.instructions import Variants
from training.datasets.progress_meta import EpisodeMeta, Outcome, ProgressMeta, save_progress_meta
from training.datasets.reader import open_dataset
from training.loading.config import DataConfigError
from training.loading.negatives import Negatives
from training.running.start import label_description


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A data set of other episodes, without labels."""
    root = lerobot_copy(tmp_path_factory.mktemp("other"))
    change_column(root, "action", lambda values: 0.9 * values)
    return root


def test_labels_count_where_they_are_valid(data, load):
    labels = {e.index: c for e, c in open_dataset(data).frames(["observation.progress", "progress.valid"])}
    assert not labels[3]["progress.valid"].any()
    with load(validation_fraction=0) as batches:
        assert batches.has_labels
        for batch in take(batches, 8):
            for row, (_, episode, frame) in enumerate(batch.origin):
                counts = labels[episode]["progress.valid"][frame]
                assert batch.observation.progress_mask[row] == counts
                assert batch.observation.progress[row] == (labels[episode]["observation.progress"][frame] * counts)


def test_without_labels_there_is_no_progress(load):
    with load(TWO_TASKS) as batches:
        assert not batches.has_labels and any("no progress labels" in note for note in batches.notes)
        observation = next(batches).observation
    assert observation.progress is None and observation.progress_mask is None
    with load(progress_column="") as batches:
        assert not batches.has_labels and len(batches.notes) == 4


@pytest.mark.parametrize("failed_actions", [False, True])
def test_actions_of_unsuccessful_episodes_count_only_if_asked_for_and_their_labels_always(
    tmp_path, load, failed_actions
):
    source = lerobot_copy(tmp_path)
    known = {0: (Outcome.SUCCESS, ""), 1: (Outcome.FAILURE, ""), 3: (Outcome.UNKNOWN, CUT_OFF + "no power")}
    episodes = {index: EpisodeMeta(outcome, note=note) for index, (outcome, note) in known.items()}  # of 2 nothing
    save_progress_meta(source, ProgressMeta(episodes))
    root = labelled(tmp_path / "labelled", source)
    change_column(root, "progress.valid", np.ones_like)
    with load(root, validation_fraction=0, failed_actions=failed_actions) as batches:
        taken = take(batches, 8)
        said = [note for note in batches.notes if "--data.failed_actions" in note]
    assert {episode for _, episode, _ in origins(taken)} == {0, 1, 2, 3}
    for batch in taken:
        counts = failed_actions | ~np.isin(batch.origin[:, 1], [1, 3])
        np.testing.assert_array_equal(batch.action_weight, counts)
        assert batch.observation.progress_mask.all()
    (note,) = said
    assert note.startswith("2 episodes failed or were cut off: their actions ")
    assert ("do not count" in note) == (not failed_actions)
    with load(root, validation_fraction=0.5, seed_split=1, failed_actions=failed_actions) as batches:
        for batch in batches.validation_batches(8):
            counts = failed_actions | ~np.isin(batch.origin[:, 1], [1, 3])
            np.testing.assert_array_equal(batch.action_weight, counts & (batch.origin[:, 0] >= 0))


def test_data_without_outcomes_is_imitated_whole_and_nothing_is_said_of_it(load):
    with load(TWO_TASKS, validation_fraction=0) as batches:
        assert all(batch.action_weight.all() for batch in take(batches, 8))
        assert not any("failed" in note for note in batches.notes)


def test_a_position_is_refused_once_outcomes_say_otherwise(load):
    with load() as batches:
        state = batches.state()
    with load(failed_actions=True) as others, pytest.raises(DataConfigError, match="actions do not count was"):
        others.restore(state)


def labels_seen(batches, data_set):
    """Labels that count of a data set's frames in some batches, by episode and frame."""
    return {
        (episode, frame): batch.observation.progress[row]
        for batch in take(batches, 16)
        for row, (of, episode, frame) in enumerate(batch.origin.tolist())
        if of == data_set and batch.observation.progress_mask[row]
    }


def labels_of(root, column):
    """Labels of a data set that count, by episode and frame."""
    return {
        (episode.index, frame): label
        for episode, of in open_dataset(root).frames([column, "progress.valid"])
        for frame, (label, counts) in enumerate(zip(of[column], of["progress.valid"], strict=True))
        if counts
    }


@pytest.fixture
def two_columns(data, unlabelled, tmp_path):
    """Data sets whose labels are in observation.progress and, made in another way, in progress.label."""
    return data, labelled(tmp_path / "other", unlabelled, column="progress.label", method="remaining")


def test_each_data_set_is_learnt_from_by_the_label_column_that_it_names(two_columns, load):
    with load(*two_columns, validation_fraction=0) as batches:
        assert labels_seen(batches, 0) == labels_of(two_columns[0], "observation.progress")
        assert batches.label_columns == ["observation.progress", "progress.label"]
        assert any(note.endswith("frames, in observation.progress, progress.label") for note in batches.notes)
        assert {name: of["method"] for name, of in label_description(batches)["methods"].items()} == {
            "labelled": "linear", "other": "remaining",
        }  # fmt: skip
    with load(*two_columns, validation_fraction=0) as batches:
        assert labels_seen(batches, 1) == labels_of(two_columns[1], "progress.label")
    (two_columns[1] / "meta/progress.json").unlink()  # as LeRobot's tools do
    with load(*two_columns) as batches:
        assert batches.label_columns == ["observation.progress", "progress.label"]


def test_a_column_may_be_chosen_for_all_or_by_data_set(two_columns, load):
    chosen = {
        "progress.label": ["", "progress.label"],
        f"{two_columns[0]}:": ["", "progress.label"],
        "other:,labelled:observation.progress": ["observation.progress", ""],
    }
    for progress_column, expected in chosen.items():
        with load(*two_columns, progress_column=progress_column) as batches:
            assert batches.label_columns == expected
            assert label_description(batches)["method"] == ("linear" if expected[0] else "remaining")
            said = f"frames, in {', '.join(name or 'none' for name in expected)}"
            assert any(note.endswith(said) for note in batches.notes)


def test_data_sets_are_mixed_by_their_weights(data, unlabelled, load):
    with load(data, unlabelled, weights=(3, 1), batch_size=16) as batches:
        assert batches.asset_id == "labelled+two_tasks"
        taken = take(batches, 8)
        assert batches.has_labels
    per_batch = [(batch.origin[:, 0] == 0).sum() for batch in taken]
    assert per_batch == [12] * 8  # not only on average
    for batch in taken:
        assert not batch.observation.progress_mask[batch.origin[:, 0] == 1].any()  # that one has no labels


def test_without_weights_every_frame_is_seen_once_an_epoch(data, unlabelled, load):
    with load(data, unlabelled, validation_fraction=0) as batches:
        assert batches.train_frames == 128
        seen = origins(take(batches, 16))
    assert len(set(seen)) == 128


def test_the_same_words_in_another_order_are_no_wrong_instruction():
    one, other, third = "the red, then the blue block", "the blue, then the red block", "stack the cubes"
    rows = types.SimpleNamespace(valid=None, episode=lambda row: 0)
    of = Negatives(0.9, 0.0, 0, (one, other, third), ((True,),))
    assert {of.change(n, 0, 5, rows, one).prompt for n in range(50)} == {None, third}
    assert {of.change(n, 0, 5, rows, third).prompt for n in range(50)} == {None, one, other}


def test_another_wording_of_the_same_task_is_no_wrong_instruction():
    said, otherwise, third = "stack the cubes", "build a tower", "lift the red cube"
    rows = types.SimpleNamespace(valid=None, episode=lambda row: 0)
    of = Negatives(0.9, 0.0, 0, (said, otherwise, third), ((True,),), {said: Variants((otherwise,), ("unstack",))})
    changes = [of.change(n, 0, 5, rows, said) for n in range(100)]
    assert {change.prompt for change in changes if change.is_wrong} == {third, "unstack"}
    assert {change.prompt for change in changes if not change.is_wrong} == {None, otherwise}


def test_a_wrong_instruction_has_no_progress_and_its_actions_do_not_count(data, load):
    tasks = open_dataset(data).tasks
    every = {"validation_fraction": 0, "batch_size": 15}
    with load(wrong_instruction=0.4, **every) as batches, load(**every) as plain:
        taken, usual = take(batches, 15), take(plain, 15)
    negatives = 0
    for batch, same in zip(taken, usual, strict=True):
        np.testing.assert_array_equal(batch.origin, same.origin)
        for row, prompt in enumerate(prompts(batch)):
            own = tasks[batch.origin[row, 1] % 2]
            wrong = own not in prompt
            negatives += wrong
            assert (tasks[0] in prompt) + (tasks[1] in prompt) == 1
            assert batch.action_weight[row] == (not wrong and batch.origin[row, 1] != 3)
            if wrong:
                assert batch.observation.progress[row] == 0 and batch.observation.progress_mask[row]
            else:
                assert batch.observation.progress[row] == same.observation.progress[row]
    assert 0.3 < negatives / 225 < 0.5


def test_a_reversed_clip_keeps_the_label_of_the_frame_shown_and_its_actions_do_not_count(data, load):
    labels = {e.index: c["observation.progress"] for e, c in open_dataset(data).frames(["observation.progress"])}
    every = {"validation_fraction": 0, "batch_size": 15}
    with load(reversed_clip=0.5, **every) as batches, load(**every) as plain:
        taken, usual = take(batches, 10), take(plain, 10)
    mirrored = 0
    for batch, same in zip(taken, usual, strict=True):
        for row, (_, episode, frame) in enumerate(batch.origin):
            if batch.action_weight[row] or episode == 3:
                assert batch.origin[row].tolist() == same.origin[row].tolist()
                continue
            mirrored += 1
            assert episode != 3  # a failure
            assert same.origin[row].tolist() == [0, episode, LENGTHS[episode] - 1 - frame]
            assert batch.observation.progress[row] == labels[episode][frame] and batch.observation.progress_mask[row]
    assert 25 < mirrored < 75
