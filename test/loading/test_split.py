"""Held-out episodes stay held out, whatever a data set is called, however it has grown, and whoever trains on it."""

import json

import numpy as np
import pytest
from small_datasets import TWO_TASKS, make_dataset
from small_loading import MODEL, labelled, loader

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.tokenizer import ByteEncoder
from training.datasets.reader import open_dataset
from training.evaluate_progress import EvaluateOptions, trained_on
from training.loading.config import DataConfig, DataConfigError
from training.loading.data import split_episodes, written
from training.loading.loader import TrainLoader
from training.loading.rows import load_rows
from training.loading.split import HELD_OUT, SPLITS, SetSplit, read_splits, seen_before, splits_of

RNG = np.random.default_rng(0)
WALKS = [np.cumsum(RNG.normal(0, 0.1, (9, 48)), axis=0) for _ in range(30)]


def made(folder, numbers):
    return make_dataset(folder, [WALKS[number] for number in numbers])


def split(*roots, before=(), **options):
    """What a run does with data sets, whose pictures do not matter here, and what is said of it."""
    datasets = [open_dataset(root) for root in roots]
    rows = [load_rows(dataset, RobotProfile.load("teleavatar"), "") for dataset in datasets]
    out, said = split_episodes(DataConfig(**options), datasets, rows, before)
    return *[written(*of) for of in zip(datasets, rows, out, strict=True)], said


def test_a_set_that_grew_and_was_renamed_keeps_what_the_checkpoint_held_out(tmp_path):
    first, _ = split(made(tmp_path / "first", range(20)))
    assert len(first.episodes) == 2
    grown = made(tmp_path / "renamed", [*range(25, 30), *range(20), *range(20, 25)])  # others before and after
    second, said = split(grown, before=[first])
    assert set(first.held_out) < set(second.held_out) and len(second.episodes) == 3
    assert not set(first.trained_on) & set(second.held_out)
    assert said == [f"{grown}: 2 episodes stay held out, as in the run of the checkpoint"]
    none, said = split(grown, before=[first], validation_fraction=0)
    assert none.episodes == () and "are trained on now" in said[0]


def renumbered(folder, number):
    """Twenty episodes of a data set, whose files hold them in another order than that of their numbers."""
    root = made(folder, [number(index) for index in range(20)])
    files = sorted((root / "data").glob("*/*.parquet"))
    for file, name in zip(files, [file.with_suffix(".moved") for file in files[1:] + files[:1]], strict=True):
        file.rename(name)
    for file in (root / "data").glob("*/*.moved"):
        file.rename(file.with_suffix(".parquet"))
    return root


def test_an_episode_is_known_by_its_number_in_whatever_order_the_files_are(tmp_path):
    first, _ = split(made(tmp_path / "first", range(20)))
    second, _ = split(renumbered(tmp_path / "second", lambda index: index), before=[first])
    assert second.episodes == first.episodes and second.held_out == first.held_out


def test_copies_of_an_episode_are_held_out_with_it(tmp_path):
    of, (note,) = split(made(tmp_path / "twice", [*range(10), *range(10)]))
    first = [index for index in of.episodes if index < 10]
    copies = [index + 10 for index in first]
    assert first and of.episodes == (*first, *copies) and not set(of.held_out) & set(of.trained_on)
    assert f"episodes {copies} are copies of held-out ones" in note
    with pytest.raises(DataConfigError, match="holds out 2, which leaves none to train on"):
        split(made(tmp_path / "same", [3, 3]))


@pytest.mark.parametrize(
    ("before", "said"), [([SetSplit("x", (1, 7))], r"its episodes \[7\], it has 4"), ([], "says nothing")]
)
def test_a_run_does_not_go_on_with_a_data_set_that_lost_episodes(before, said):
    with pytest.raises(DataConfigError, match=rf"two_tasks: has changed since the run began.*{said}.*--exp_name"):
        TrainLoader(DataConfig(str(TWO_TASKS)), MODEL, ByteEncoder(), batch_size=8, seed=0, before=before, goes_on=True)


def test_lists_of_former_versions_count_by_folder_and_number(tmp_path):
    root = made(tmp_path / "set", range(20))
    path = tmp_path / HELD_OUT
    path.write_text(json.dumps([{"folder": str(root.resolve()), "episodes": [4, 11]}]))
    kept, _ = split(root, before=splits_of(tmp_path))
    assert kept.episodes == (4, 11)
    assert seen_before(read_splits(path), root, ["x"] * 22) == ({4, 11}, set(range(22)) - {4, 11})
    assert seen_before(read_splits(path), tmp_path, ["x"] * 22) == (set(), set())


def test_where_the_checkpoint_saw_everything_that_is_said_of_what_is_held_out(tmp_path):
    root = made(tmp_path / "set", range(10))
    all_seen, _ = split(root, validation_fraction=0)
    again, said = split(root, before=[all_seen])
    assert len(again.episodes) == 1 and "the checkpoint was trained on them" in said[0]


def test_what_a_checkpoint_held_out_lies_in_its_folder_or_in_that_of_the_run(tmp_path):
    (tmp_path / "run/100").mkdir(parents=True)
    (tmp_path / "run/last").symlink_to("100")
    mine = [SetSplit("/data/a", (1,), ("x",), ("y", "z"))]
    assert splits_of(tmp_path / "run/last") == []
    for folder in ("run", "run/100"):
        (tmp_path / folder / HELD_OUT).write_bytes(SPLITS.dump_json(mine))
        assert splits_of(tmp_path / "run/last") == mine
    (tmp_path / "run/100" / HELD_OUT).write_text('[{"folder": 3}]')
    with pytest.raises(UserError, match=r"held_out\.json: not the held_out\.json of a run: 0\.folder"):
        splits_of(tmp_path / "run/last")


def test_one_data_set_under_two_names_is_refused(tmp_path):
    copy = labelled(tmp_path / "copy")  # with labels: the same episodes nevertheless
    with pytest.raises(DataConfigError, match=r"4 of 4 episodes of .*copy are those of .*two_tasks under another name"):
        loader(TWO_TASKS, copy)


def test_a_data_set_of_one_episode_is_no_obstacle_to_the_others(tmp_path):
    one, many = made(tmp_path / "one", [0]), made(tmp_path / "many", range(1, 11))
    with pytest.raises(DataConfigError, match="leaves none to train on"):
        split(one)
    *of_each, _ = split(one, many)
    assert [len(of.episodes) for of in of_each] == [0, 1]


def test_evaluating_what_was_trained_on_says_so(tmp_path):
    root = made(tmp_path / "set", range(20))
    own, _ = split(root)
    copy = made(tmp_path / "copy", [25, *range(20)])
    run = tmp_path / "run"
    run.mkdir()
    (run / HELD_OUT).write_bytes(SPLITS.dump_json([own]))
    options = EvaluateOptions(dataset=copy, checkpoint=run)
    (note,) = trained_on(options, open_dataset(copy), list(range(21)))
    assert note.startswith("18 of 21 episodes (") and "were trained on" in note and "--held_out" in note
    held = [1 + number for number in own.episodes]
    assert trained_on(options, open_dataset(copy), [0, *held]) == []
    moved = renumbered(tmp_path / "moved", lambda index: 19 - index)
    there = sorted(19 - number for number in own.episodes)
    assert trained_on(options, open_dataset(moved), there) == []
