"""Normalisation and running statistics against openpi's recorded numbers."""

import numpy as np
import places
import pytest

from pi05_progress.units.normalize import (
    NormStats,
    NormStatsError,
    RunningStats,
    load_norm_stats,
    normalize,
    save_norm_stats,
    unnormalize,
)

GOLDEN = dict(np.load(places.GOLDEN / "transforms/transforms.npz"))
STATS = NormStats(*(GOLDEN[f"norm/{name}"] for name in ("mean", "std", "q01", "q99")))


@pytest.mark.parametrize("quantiles", [True, False])
def test_normalising_and_back_as_openpi(quantiles):
    kind = "quantile" if quantiles else "zscore"
    for key in ("x", "x_short"):
        ours = normalize(GOLDEN[f"norm/{key}"], STATS, quantiles)
        np.testing.assert_allclose(ours, GOLDEN[f"norm/{kind}/{key}"], rtol=1e-6, atol=1e-9)
    for key in ("x", "x_long"):
        ours = unnormalize(GOLDEN[f"norm/{key}"], STATS, quantiles)
        np.testing.assert_allclose(ours, GOLDEN[f"norm/{kind}/un_{key}"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("quantiles", [True, False])
def test_unnormalising_fewer_values_than_statistics_is_refused(quantiles):
    with pytest.raises(NormStatsError, match="7 statistics where there are 5"):
        unnormalize(GOLDEN["norm/x_short"], STATS, quantiles)


def test_running_statistics_are_openpis():
    running = RunningStats()
    for batch in GOLDEN["stats/batches"]:
        running.update(batch)
    result = running.result()
    for name in ("mean", "std", "q01", "q99"):
        np.testing.assert_allclose(getattr(result, name), GOLDEN[f"stats/{name}"], rtol=1e-6, atol=1e-9)
    spread = np.ptp(GOLDEN["stats/batches"].reshape(-1, 4), axis=0)
    for name in ("q01", "q99"):
        assert (np.abs(getattr(result, name) - GOLDEN[f"stats/exact_{name}"]) < 0.1 * spread).all()


def test_statistics_survive_the_file(tmp_path):
    path = tmp_path / "assets" / "norm_stats.json"
    save_norm_stats(path, {"state": STATS, "actions": NormStats(STATS.mean, STATS.std)})
    read = load_norm_stats(path)
    np.testing.assert_array_equal(read["state"].q99, STATS.q99)
    assert read["actions"].q01 is None
    with pytest.raises(NormStatsError, match="no quantiles"):
        normalize(GOLDEN["norm/x"], read["actions"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a norm_stats.json"),
        ('{"norm_stats": {"state": {"mean": [1, 2], "std": [1]}}}', r"state\.std is not 2 finite numbers"),
        ('{"norm_stats": {"state": {"mean": [NaN], "std": [1]}}}', r"state\.mean is not 1 finite numbers"),
        ('{"other": {}}', "not a norm_stats.json"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, text, message):
    path = tmp_path / "norm_stats.json"
    path.write_text(text)
    with pytest.raises(NormStatsError, match=message) as error:
        load_norm_stats(path)
    assert str(path) in str(error.value)


def test_too_few_values_are_refused():
    running = RunningStats()
    running.update(np.zeros((1, 3)))
    with pytest.raises(NormStatsError, match="at least two"):
        running.result()
