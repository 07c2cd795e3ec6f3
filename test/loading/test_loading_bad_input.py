"""Data and configurations that do not fit: the error says what is wrong, where, and what to do."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_datasets import MERGED, TWO_TASKS, facts, lerobot_copy, make_dataset
from small_loading import MODEL, change_column, labelled, loader

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError
from pi05_progress.units.normalize import NormStats, load_norm_stats, save_norm_stats
from training.datasets.frames import PictureError
from training.datasets.reader import DatasetError, open_dataset
from training.loading.config import DataConfig, DataConfigError
from training.loading.norm_stats import compute
from training.loading.rows import load_rows
from training.loading.split import held_out
from training.loading.statistics import statistics

PROFILE = RobotProfile.load("teleavatar")
NAMES = [f"episode {index}" for index in range(100)]


@pytest.fixture
def data(tmp_path):
    return labelled(tmp_path / "labelled")


def refused(said, *roots, kind=DataConfigError, **options):
    with pytest.raises(kind, match=said):
        loader(*roots, **options)


def edit_info(root, change):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.unlink()
    path.write_text(json.dumps(info))


def own_stats(root, relative=False):
    return compute([open_dataset(root)], PROFILE, horizon=MODEL.action_horizon, relative=relative)


def test_no_data_set_or_none_there(tmp_path):
    refused("give the folder of one", "")
    refused("no such folder; .*hf download", "physical-intelligence/libero", kind=DatasetError)
    refused("not a LeRobot data set", tmp_path, kind=DatasetError)
    refused("given twice", TWO_TASKS, TWO_TASKS)


@pytest.mark.parametrize("name", ["observation.state", "action"])
def test_missing_features(data, name):
    edit_info(data, lambda info: info["features"].pop(name))
    refused(f"no feature {name}; it has", data, kind=DatasetError)


def test_a_missing_camera_is_named_and_may_be_done_without(data):
    edit_info(data, lambda info: info["features"].pop("observation.images.left_color"))
    refused(r"no feature observation.images.left_color; choose --data.cameras head_camera right_color", data)
    with loader(data, cameras=("head_camera", "right_color")) as batches:
        assert not next(batches).observation.image_masks["left_wrist_0_rgb"].any()


def test_cameras_as_single_pictures_or_unknown(data):
    refused("cameras: nose is not in robot profile teleavatar; it has head_camera", data, cameras=("nose",))
    edit_info(data, lambda info: info["features"]["observation.images.head_camera"].update(dtype="image"))
    refused("head_camera is stored as image, expected video", data)


def test_vectors_of_another_size(tmp_path):
    refused(r"observation.state has 6 numbers, .* another robot's data", MERGED, kind=DatasetError)
    wide = make_dataset(tmp_path / "wide", [np.zeros((3, 62))])
    refused("has 62 numbers, robot teleavatar has 48; .*--data.robot teleavatar_v2", wide)


def test_the_profile_of_another_robot(data):
    refused(
        "robot_type is teleavatar, the profile is teleavatar_v2, .*--data.robot teleavatar",
        data,
        robot="teleavatar_v2",
        kind=DatasetError,
    )
    refused("unknown robot profile 'nobody'", data, robot="nobody", kind=ConfigError)
    edit_info(data, lambda info: info.update(robot_type="so100"))
    refused("robot_type is so100", data, kind=DatasetError)


def test_data_sets_of_different_frame_rates(data, tmp_path):
    other = lerobot_copy(tmp_path)
    edit_info(other, lambda info: info.update(fps=20))
    refused(r"frames per second are .*labelled: 10, .*two_tasks: 20; convert", data, other)


@pytest.mark.parametrize("label", [1.5, -0.01, np.nan])
def test_labels_outside_0_to_1_unless_they_do_not_count(data, label):
    change_column(data, "observation.progress", lambda labels: np.where(np.arange(len(labels)) == 5, label, labels))
    refused(rf"episode 0, observation.progress: the label of frame 5 is {label:g}, expected \[0, 1\]", data)
    change_column(data, "progress.valid", np.zeros_like)
    with loader(data) as batches:
        assert np.isfinite(next(batches).observation.progress).all()


def test_a_label_column_that_is_not_there(data):
    refused("progress_column is progress.label, which no data set has", data, progress_column="progress.label")
    refused("labelled: no feature progress.label", data, progress_column="labelled:progress.label", kind=DatasetError)
    for name in ("other:progress.label", "labelled:progress.label,more", "labelled:a,labelled:b"):
        refused(f"progress_column is {name}, which no data set has; .* sets are labelled,", data, progress_column=name)


def test_a_data_set_with_two_label_columns_of_which_none_is_chosen(data):
    (data / "meta/progress.json").unlink()  # it said which one
    edit_info(data, lambda info: info["features"].update({"progress.label": info["features"]["observation.progress"]}))
    for path in sorted(data.glob("data/*/*.parquet")):
        table = pq.read_table(path)
        pq.write_table(table.append_column("progress.label", table["observation.progress"]), path)
    said = "labelled: progress labels may be in observation.progress or progress.label; choose one: "
    refused(f"{said}--data.progress_column labelled:observation.progress", data)
    for column in ("progress.label", "labelled:progress.label"):
        with loader(data, progress_column=column) as batches:
            assert batches.label_columns == ["progress.label"] and batches.has_labels


@pytest.mark.parametrize("name", ["meta/info.json", "meta/progress.json"])
def test_metadata_that_are_nested_too_deeply(data, name):
    (data / name).unlink()
    (data / name).write_text("[" * 100_000)
    refused(f"{name}: cannot be read: .*too deeply nested", data, kind=UserError)


@pytest.mark.parametrize(("name", "number"), [("observation.state", np.nan), ("action", np.inf)])
def test_numbers_that_are_not_finite(data, name, number):
    def spoil(vectors):
        vectors[2:3, 8] = number
        return vectors

    change_column(data, name, spoil)
    refused(f"episode 0, {name}: {number} in frame 2; record or convert", data)


def test_an_instruction_is_needed_and_must_not_be_too_long(data, tmp_path):
    refused(r"task_index 0: the prompt with the state has \d+ tokens, the model takes 80", data,
            model=dataclasses.replace(MODEL, max_token_len=80))  # fmt: skip
    path = data / "meta/tasks.parquet"
    table = pq.read_table(path)
    names = [" \n" if name.startswith("stack") else name for name in table["task"].to_pylist()]
    path.unlink()
    pq.write_table(table.set_column(table.schema.get_field_index("task"), "task", [names]), path)
    refused(r"tasks.parquet: the instruction of task_index 1 is empty", data)


def test_a_tokenizer_of_another_model(data):
    refused("the tokenizer has 259 tokens, the model 100", data, model=dataclasses.replace(MODEL, vocabulary=100))


def test_statistics_that_are_missing(data):
    refused("no norm_stats.json; make it: python -m training.compute_norm_stats", data, compute_norm_stats=False)
    refused("nowhere.json: cannot be read", data, norm_stats=data / "nowhere.json")


def test_statistics_of_another_data_set(data):
    path = data / "norm_stats.json"
    stats = own_stats(data)
    shifted = dataclasses.replace(stats["state"], mean=stats["state"].mean + 0.3)
    save_norm_stats(path, {**stats, "state": shifted})
    refused(r"state 0 has mean .* and deviation .*, the data .*other data; compute .*foreign_norm_stats", data)
    with loader(data, foreign_norm_stats=True) as batches:
        np.testing.assert_array_equal(batches.stats["state"].mean, shifted.mean)
    save_norm_stats(path, stats)
    loader(data).close()


@pytest.mark.parametrize("key", ["state", "actions"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda q01, q99: (q01 + 50, q99 + 50), r"KEY 0 has q01 \d+\.\d+, the data -?\d\.\d+: .*other data"),
        (lambda q01, q99: (q01, q99 + 50), r"KEY 0 has q99 \d+\.\d+, the data -?\d\.\d+: .*other data"),
        (lambda q01, q99: (q99, q01), r"KEY 0 has q01 .*, which is above its q99"),
        (lambda q01, q99: (q01, q01), r"KEY 0 has q\w+ .*, the data"),
        (lambda q01, q99: (0.5 * (q01 + q99),) * 2, r"KEY 0 has q\w+ .*, the data"),
    ],
)
def test_quantiles_that_are_not_the_datas_though_mean_and_deviation_are(data, key, change, said):
    stats = own_stats(data)
    q01, q99 = change(stats[key].q01, stats[key].q99)
    save_norm_stats(data / "norm_stats.json", {**stats, key: dataclasses.replace(stats[key], q01=q01, q99=q99)})
    refused(f"norm_stats.json: {said.replace('KEY', key)}.*; compute them anew: python -m", data)


def test_quantiles_of_another_horizon_and_of_what_hardly_ever_changes_are_taken(tmp_path):
    """A gripper that moves in about 1 % of the frames has its q01 at either end."""
    rng = np.random.default_rng(0)
    moving = np.cumsum(rng.normal(size=(4, 300, 48)), axis=1) / 10
    moving[..., 3] = 0.25  # constant
    moving[..., [39, 47]] = 0.5
    moving[:, 100:104, 39] = -0.5
    data = make_dataset(tmp_path / "moving", list(moving))
    for horizon in (1, 50):
        stats = compute([open_dataset(data)], PROFILE, horizon=horizon, relative=False)
        assert stats["state"].q01[3] < 0.25 < stats["state"].q99[3]  # a range around what never changes
        save_norm_stats(data / "norm_stats.json", stats)
        dataset = open_dataset(data)
        taken, _ = statistics(DataConfig(), [dataset], [load_rows(dataset, PROFILE, "")], PROFILE, MODEL)
        np.testing.assert_array_equal(taken["actions"].q01, stats["actions"].q01)


@pytest.mark.parametrize("relative", [False, True])
def test_what_is_extreme_when_it_is_normalised_is_named_with_episode_and_frame(tmp_path, relative):
    rng = np.random.default_rng(0)
    states = np.cumsum(rng.normal(size=(3, 200, 48)), axis=1) / 10
    actions = states + rng.normal(size=states.shape) / 10
    actions[1, 7, 2] = 1e4
    dataset = open_dataset(make_dataset(tmp_path / "spike", list(states), actions=list(actions)))
    config = DataConfig(delta_actions=relative)
    _, said = statistics(config, [dataset], [load_rows(dataset, PROFILE, "")], PROFILE, MODEL)
    (note,) = [text for text in said if "extreme" in text]
    assert "spike: actions: extreme when normalised: l_joint3 " in note and "(episode 1, frame 7);" in note


def test_statistics_of_the_other_kind_of_actions(data):
    save_norm_stats(data / "norm_stats.json", own_stats(data))
    refused(
        "statistics of those absolute, the model is trained on those relative .*--delta-actions",
        data,
        delta_actions=True,
    )
    save_norm_stats(data / "norm_stats.json", own_stats(data, relative=True))
    refused("statistics of those relative to the state, the model is trained on those absolute", data)


def test_statistics_of_rows_that_are_missing_or_of_other_chunks_or_data(data):
    model = dataclasses.replace(MODEL, state_token=True)
    kinds = {"relative": True, "per_row": True, "proprioception": True}
    stats = compute([open_dataset(data)], PROFILE, horizon=MODEL.action_horizon, **kinds)
    given = {"delta_actions": True, "actions_per_row": True, "model": model}
    path = data / "norm_stats.json"
    for key in ("actions_per_row", "proprioception"):
        save_norm_stats(path, {other: of for other, of in stats.items() if other != key})
        refused(f"no statistics of {key}, only of .*--actions-per-row --proprioception --horizon 6", data, **given)
    rows = stats["actions_per_row"]
    shorter = NormStats(*(part[:4] for part in vars(rows).values()))
    save_norm_stats(path, stats | {"actions_per_row": shorter})
    refused("actions_per_row has statistics of 4 rows, chunks have 6", data, **given)
    save_norm_stats(
        path, stats | {"actions_per_row": dataclasses.replace(rows, mean=rows.mean + np.eye(6)[4][:, None])}
    )
    refused("actions_per_row, row 4: 0 has mean .*statistics of other data", data, **given)
    save_norm_stats(path, stats)
    with loader(data, **given) as batches:
        np.testing.assert_array_equal(batches.stats["actions_per_row"].q99, rows.q99)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stats: stats.pop("actions"), "no statistics of actions, only of state"),
        (lambda stats: stats.update(state=NormStats(*[np.zeros(6)] * 4)), "state.mean has 6 numbers, the robot has 14"),
        (lambda stats: stats.update(state=dataclasses.replace(stats["state"], q01=None, q99=None)), "no quantiles"),
    ],
)
def test_statistics_of_wrong_form(data, change, said):
    stats = own_stats(data)
    change(stats)
    save_norm_stats(data / "norm_stats.json", stats)
    assert load_norm_stats(data / "norm_stats.json").keys() == stats.keys()
    refused(f"norm_stats.json: .*{said}.*compute them anew|{said}", data)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_a_share_of_held_out_episodes_that_cannot_be(data, fraction):
    refused("validation_fraction is", data, validation_fraction=fraction)


def test_a_split_that_leaves_nothing():
    with pytest.raises(DataConfigError, match=r"holds out 1, which leaves none to train on; .*validation_fraction 0"):
        held_out(NAMES[:1], 0.1, 0)
    assert held_out(NAMES[:1], 0, 0) == []
    assert [len(held_out(NAMES[:count], 0.1, 0)) for count in (2, 14, 16, 100)] == [1, 1, 2, 10]
    assert held_out(NAMES, 0.1, 0) == held_out(NAMES, 0.1, 0) != held_out(NAMES, 0.1, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 9, "process": (0, 2)}, "batch_size is 9, which 2 processes cannot share"),
        ({"process": (2, 2)}, "process 2 of 2"),
        ({"seed": -1}, "seed is -1"),
        ({"weights": (1, 2)}, "weights are 1, 2; expected a positive number for each of the 1 data sets"),
        ({"weights": (0,)}, "weights are 0"),
        ({"workers": -1}, "workers is -1"),
        ({"wrong_instruction": 1.0}, "wrong_instruction is 1.0"),
        ({"reversed_clip": 0.1, "progress_column": ""}, "no data set has labels"),
    ],
)
def test_settings_that_cannot_be(data, options, said):
    refused(said, data, **options)


def test_wrong_instructions_need_another_task(tmp_path):
    data = labelled(tmp_path / "labelled")
    change_column(data, "task_index", np.zeros_like)
    refused("all episodes have one instruction, 'put the block into the basket'", data, wrong_instruction=0.1)


def test_data_of_which_no_action_would_be_learnt(tmp_path):
    source = lerobot_copy(tmp_path)
    facts(source, **{f"e{index}": ("FAILURE", {}) for index in range(4)})
    refused("all 3 episodes that are trained on failed or were cut off .*: --data.failed_actions", source)
    loader(source, failed_actions=True).close()


def test_a_missing_video(data):
    video = next(data.glob("videos/*head_camera/*/file-001.mp4"))
    video.unlink()
    refused("file-001.mp4: No such file or directory; the data set is incomplete", data, cache=data.parent / "cache")
    with pytest.raises(PictureError, match=r"file-001.mp4: cannot be opened"), loader(data) as batches:
        for _ in range(8):
            next(batches)
