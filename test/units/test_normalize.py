"""Normalisation and statistics against openpi's recorded numbers."""

import numpy as np
import places
import pytest

from pi05_progress.units.normalize import (
    NormStats,
    NormStatsError,
    load_norm_stats,
    moments,
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


def test_statistics_are_openpis_and_quantiles_are_not_approximated():
    batches = GOLDEN["stats/batches"].reshape(-1, 4)
    mean, std, q01, q99, low, high = moments(batches.T)
    np.testing.assert_allclose(mean, GOLDEN["stats/mean"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(std, GOLDEN["stats/std"], rtol=1e-6, atol=1e-9)
    for quantile, share, openpis in ((q01, 0.01, GOLDEN["stats/q01"]), (q99, 0.99, GOLDEN["stats/q99"])):
        assert ((batches <= quantile).mean(axis=0) >= share).all() and ((batches < quantile).mean(axis=0) < share).all()
        assert (np.abs(quantile - openpis) < 0.02 * (high - low)).all()


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
