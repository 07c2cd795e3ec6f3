"""Normalisation statistics of data sets against straightforward computations with NumPy."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import PATIENCE_S
from places import ROOT
from small_datasets import MERGED, TWO_TASKS, make_dataset, tree

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import load_norm_stats, normalize
from pi05_progress.units.transforms import actions_to_model, state_to_model
from training.compute_norm_stats import StatisticsOptions, compute_norm_stats
from training.datasets.reader import DatasetError, open_dataset

ARMS = np.r_[0:7, 8:15]


def stats_of(*roots, output, **options):
    compute_norm_stats(StatisticsOptions(tuple(roots), output=output, **options))
    return load_norm_stats(output)


def directly(roots, horizon, relative, robot="teleavatar"):
    """States and rows of action chunks as openpi's loader makes them, one frame after the other, all in memory."""
    profile, states, rows = RobotProfile.load(robot), [], []
    for root in roots:
        for _, columns in open_dataset(root).frames(["observation.state", "action"]):
            state = state_to_model(columns["observation.state"], profile.layout)
            actions = actions_to_model(columns["action"], profile.layout)
            for frame in range(len(state)):
                chunk = np.stack([actions[min(frame + k, len(actions) - 1)] for k in range(horizon)])
                if relative:
                    chunk[:, ARMS] -= state[frame]
                states.append(state[frame])
                rows.append(chunk)
    return {"state": np.stack(states), "actions": np.concatenate(rows)}


def random_set(root, lengths=(40, 3, 1, 25), seed=0, size=48):
    rng = np.random.default_rng(seed)
    states = [np.cumsum(rng.normal(0, 0.1, (n, size)), axis=0) for n in lengths]
    return make_dataset(root, states, actions=[s + rng.normal(0, 0.3, s.shape) for s in states])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("horizon", [1, 7, 50])
def test_statistics_are_those_of_all_rows_of_all_chunks(tmp_path, horizon, relative):
    root = random_set(tmp_path / "d")
    ours = stats_of(root, output=tmp_path / "s.json", horizon=horizon, delta_actions=relative)
    for key, values in directly([root], horizon, relative).items():
        values = values.astype(float)
        np.testing.assert_allclose(ours[key].mean, values.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(ours[key].std, values.std(axis=0), rtol=1e-6, atol=1e-7)
        moves = np.ptp(np.quantile(values, (0.01, 0.99), axis=0), axis=0) > 0.01
        assert moves.sum() >= 14
        for name, share in (("q01", 0.01), ("q99", 0.99)):
            exact = np.quantile(values, share, axis=0, method="inverted_cdf")
            np.testing.assert_array_equal(getattr(ours[key], name)[moves], exact[moves])


def test_joints_that_hardly_ever_move_are_normalised_by_their_range_and_named(tmp_path):
    rng = np.random.default_rng(0)
    states = [np.cumsum(rng.normal(0, 0.02, (300, 48)), axis=0) for _ in range(4)]
    for state in states:
        state[:, 8:15] = 0.25
    states[0][100:103, 8:14] = 0.9  # 3 of 1200 frames; the seventh joint never moves
    states[1][7, 0] = 1e6
    root, notes = make_dataset(tmp_path / "d", states), []
    _, stats, _ = compute_norm_stats(StatisticsOptions((root,)), notes)
    for key, right in (("state", slice(7, 13)), ("actions", slice(8, 14))):
        of = stats[key]
        assert np.abs(normalize(np.full(right.stop, 0.9), of)[right]).max() < 1.1
        assert (of.q99 - of.q01)[right.stop] == pytest.approx(0.005) and of.q01[0] > -1 and of.q99[0] < 1
        said = [note for note in notes if note.startswith(f"{key}: ")]
        assert len(said) == 2 and "hardly ever changes: r_joint1 (0.2475 to 0.9), " in said[0] and "r_joint7" in said[0]
        assert "extreme when normalised: l_joint1 1e+06 is " in said[1] and "joint2" not in said[1]


def test_several_data_sets_count_by_their_frames(tmp_path):
    roots = [random_set(tmp_path / "a"), random_set(tmp_path / "b", (60, 11), seed=3)]
    ours = stats_of(*roots, output=tmp_path / "s.json", horizon=10)
    values = directly(roots, 10, False)
    np.testing.assert_allclose(ours["actions"].mean, values["actions"].mean(axis=0, dtype=float), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours["state"].std, values["state"].std(axis=0, dtype=float), rtol=1e-6)


@pytest.mark.parametrize("robot", ["teleavatar", "teleavatar_v2"])
def test_grippers_are_command_numbers_of_the_robots_curve(tmp_path, robot):
    root = random_set(tmp_path / "d", size=62 if robot == "teleavatar_v2" else 48)
    ours = stats_of(root, output=tmp_path / "s.json", horizon=5, robot=robot)
    expected = directly([root], 5, False, robot)["actions"]
    assert len(ours["state"].mean) == 14 and len(ours["actions"].mean) == 16
    for column in (7, 15):
        assert 0 <= ours["actions"].q01[column] <= ours["actions"].q99[column] <= 1
    np.testing.assert_allclose(ours["actions"].mean, expected.mean(axis=0, dtype=float), rtol=1e-6, atol=1e-7)


def test_the_same_data_gives_the_same_file(tmp_path):
    root = random_set(tmp_path / "d")
    for name in ("a.json", "b.json"):
        stats_of(root, output=tmp_path / name, delta_actions=True)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_lerobots_data_set_without_decoding_a_picture(tmp_path):
    before = tree(TWO_TASKS)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from training.compute_norm_stats import StatisticsOptions, compute_norm_stats\n"
        f"options = StatisticsOptions((Path({str(TWO_TASKS)!r}),), output=Path({str(tmp_path / 's.json')!r}))\n"
        "compute_norm_stats(options)\n"
        "print([m for m in ('av', 'PIL.JpegImagePlugin', 'torch', 'lerobot', 'rclpy', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "[]", done.stderr
    assert tree(TWO_TASKS) == before
    values = directly([TWO_TASKS], 50, False)
    np.testing.assert_allclose(
        load_norm_stats(tmp_path / "s.json")["state"].mean, values["state"].mean(axis=0, dtype=float), rtol=1e-6
    )


def test_the_file_lies_in_the_data_set_and_is_only_replaced_when_asked(tmp_path):
    root = random_set(tmp_path / "d")
    path, _, _ = compute_norm_stats(StatisticsOptions((root,)))
    assert path == root / "norm_stats.json"
    with pytest.raises(UserError, match="already there"):
        compute_norm_stats(StatisticsOptions((root,)))
    compute_norm_stats(StatisticsOptions((root,), overwrite=True))
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        compute_norm_stats(StatisticsOptions((root,), output=tmp_path, overwrite=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]
    assert not tmp_path.with_name(tmp_path.name + ".partial").exists()


def test_no_statistics_are_written_of_a_data_set_that_lacks_a_file(tmp_path):
    root = random_set(tmp_path / "d")
    (root / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DatasetError, match="a file is missing"):
        compute_norm_stats(StatisticsOptions((root,)))
    assert not (root / "norm_stats.json").exists()


def test_what_cannot_be_done_is_said(tmp_path):
    a, b = random_set(tmp_path / "a"), make_dataset(tmp_path / "b", [np.zeros((5, 48))], fps=30)
    with pytest.raises(UserError, match="--output"):
        compute_norm_stats(StatisticsOptions((a, b)))
    with pytest.raises(DatasetError, match=r"a: 10, .*b: 30"):
        compute_norm_stats(StatisticsOptions((a, b), output=tmp_path / "s.json"))
    with pytest.raises(DatasetError, match="has 6 numbers"):
        compute_norm_stats(StatisticsOptions((MERGED,), output=tmp_path / "s.json"))
    with pytest.raises(UserError, match="--horizon is 0"):
        compute_norm_stats(StatisticsOptions((a,), horizon=0))
    assert not (tmp_path / "s.json").exists()


def test_numbers_that_are_not_finite_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = random_set(tmp_path / "d")
    path = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    rows = np.stack(table["action"].to_pylist()).astype(np.float32)
    rows[4, 39] = np.nan  # the left gripper's effort; frame 3 of episode 3
    spoilt = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 48)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", spoilt), path)
    with pytest.raises(UserError, match="episode 3, action: nan in frame 3"):
        compute_norm_stats(StatisticsOptions((root,)))
    assert not (root / "norm_stats.json").exists()


def test_the_command_line(tmp_path):
    root = random_set(tmp_path / "d")
    command = [sys.executable, "-m", "training.compute_norm_stats", str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and "l_joint1" in done.stdout and "norm_stats.json" in done.stdout, done.stderr
    done = subprocess.run(
        [*command[:-1], str(tmp_path / "no")], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1 and "no such folder" in done.stderr and "Traceback" not in done.stderr
