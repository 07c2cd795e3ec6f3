"""Exports and their way back, checkpoints by name, and what is told about them."""

import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_cases import (
    HEADS,
    LEROBOT,
    SMALL,
    STATE_DICT,
    TOLD,
    arrays,
    assert_same,
    golden_leaves,
    imported,
    orbax_restore,
    random_model,
    save_ours,
    torch_folder,
    unpack_openpi,
    without_head,
)

from pi05_progress.checkpoints.checkpoint import CheckpointError, load_checkpoint
from pi05_progress.checkpoints.foreign import head_file
from pi05_progress.checkpoints.foreign import torch_parameters as torch_names
from pi05_progress.checkpoints.foreign.conversion import export_checkpoint
from pi05_progress.checkpoints.foreign.hub import resolve
from pi05_progress.convert_checkpoint import main


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    return unpack_openpi(tmp_path_factory.mktemp("openpi"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "one"
    save_ours(folder)
    return folder


@pytest.mark.parametrize("layout", ["openpi", "lerobot"])
def test_an_export_comes_back_unchanged(ours, tmp_path, layout, capsys):
    assert main(["export", str(ours), str(tmp_path / "out"), "--to", layout]) == 0
    assert "progress head is kept" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    before, after = load_checkpoint(ours), load_checkpoint(tmp_path / "back")
    assert_same(arrays(after.model), arrays(before.model))
    assert after.stats.keys() == before.stats.keys()
    np.testing.assert_array_equal(after.stats["state"].q99, before.stats["state"].q99)
    same = ("model", "robot", "model_id", "action_dt_s", "asset_id", "quantiles", "labels", "tokenizer")
    assert [getattr(after.info, name) for name in same] == [getattr(before.info, name) for name in same]


def test_openpi_would_restore_what_is_exported_to_its_layout(ours, tmp_path):
    export_checkpoint(ours, tmp_path / "30000", "openpi")
    restored = orbax_restore(tmp_path / "30000/params")
    assert_same(restored, arrays(load_checkpoint(ours).model))
    assert (tmp_path / "30000/assets/a/b/norm_stats.json").is_file()


def test_for_lerobot_the_head_lies_beside_the_model_which_has_lerobots_names_alone(ours, tmp_path):
    notes = export_checkpoint(ours, tmp_path / "out", "lerobot")
    assert any("kept in progress_head.safetensors, which LeRobot passes over" in note for note in notes)
    model = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    assert all(name.startswith("model.") and "progress" not in name for name in model)
    head = safetensors.numpy.load_file(tmp_path / "out/progress_head.safetensors")
    before = arrays(load_checkpoint(ours).model)
    for layer in ("hidden", "output"):
        found = head[f"progress_head.{layer}.weight"], head[f"progress_head.{layer}.bias"]
        np.testing.assert_array_equal(found[0], before[f"progress_head/{layer}/kernel"].T)
        np.testing.assert_array_equal(found[1], before[f"progress_head/{layer}/bias"])


def test_a_head_that_is_not_beside_the_model_any_more_is_initialised_and_that_is_told(ours, tmp_path):
    export_checkpoint(ours, tmp_path / "out", "lerobot")
    (tmp_path / "out/progress_head.safetensors").unlink()
    loaded, notes = imported(tmp_path / "out", tmp_path / "back")
    before, after = arrays(load_checkpoint(ours).model), arrays(loaded.model)
    assert_same(
        {path: value for path, value in after.items() if "progress" not in path},
        {path: value for path, value in before.items() if "progress" not in path},
    )
    assert any("initialised" in note for note in notes)
    assert loaded.info.model_id == "untrained"


@pytest.mark.parametrize("kind", ["scalar", "categorical"])
def test_a_heads_leaves_become_tensors_and_leaves_again(kind):
    config = SMALL.with_progress(kind)
    leaves = {p: v for p, v in arrays(random_model(config)).items() if p.startswith("progress_head/")}
    tensors = head_file.to_torch(leaves, config)
    assert tuple(tensors) == head_file.NAMES
    outputs = 1 if kind == "scalar" else config.progress.bins
    assert tensors["progress_head.hidden.weight"].shape == (config.progress.hidden, config.paligemma.width)
    assert tensors["progress_head.output.weight"].shape == (outputs, config.progress.hidden)
    assert head_file.to_torch({}, config.with_progress("none")) == {}


def spoil(name, change):
    def do(tensors):
        tensors[name] = change(tensors[name])

    return do


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda t: t.pop("progress_head.output.bias"),
            r"not a progress head: missing: 1 \(progress_head.output.bias\)",
        ),
        (lambda t: t.update(more=np.zeros(1)), r"not a progress head: not known: 1 \(more\)"),
        (spoil("progress_head.output.weight", np.ravel), r"output.weight float32\[256\].*expected are floats"),
        (spoil("progress_head.output.weight", lambda a: a[:, :3]), r"output.weight float32\[1, 3\].*expected are"),
        (spoil("progress_head.hidden.bias", lambda a: a.astype(np.int32)), "hidden.bias int32"),
        (spoil("progress_head.hidden.weight", lambda a: a[:, :3]), r"hidden.weight: \(256, 3\) instead of \(256, 32\)"),
    ],
)
def test_a_file_that_is_no_progress_head_of_the_model_is_refused(ours, tmp_path, damage, told):
    export_checkpoint(ours, tmp_path / "out", "lerobot")
    file = tmp_path / "out/progress_head.safetensors"
    tensors = safetensors.numpy.load_file(file)
    damage(tensors)
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(CheckpointError, match=told):
        imported(tmp_path / "out", tmp_path / "back")


def test_a_head_inside_the_model_is_read_and_two_heads_are_refused(ours, tmp_path):
    export_checkpoint(ours, tmp_path / "out", "lerobot")
    head = safetensors.numpy.load_file(tmp_path / "out/progress_head.safetensors")
    model = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    inside = {f"model.{name}": value for name, value in head.items()}
    safetensors.numpy.save_file(model | inside, tmp_path / "out/model.safetensors")
    with pytest.raises(CheckpointError, match="remove one"):
        imported(tmp_path / "out", tmp_path / "back")
    (tmp_path / "out/progress_head.safetensors").unlink()
    loaded, _ = imported(tmp_path / "out", tmp_path / "back")
    assert_same(arrays(loaded.model), arrays(load_checkpoint(ours).model))


def test_an_export_to_lerobot_has_the_names_and_shapes_of_lerobots_own_state_dict(tmp_path):
    source = torch_folder(tmp_path / "lerobot", config=LEROBOT)
    imported(source, tmp_path / "x", fields=HEADS)
    export_checkpoint(tmp_path / "x", tmp_path / "out", "lerobot")
    exported = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    assert exported.keys() == {f"model.{key}" for key in STATE_DICT}
    for key, value in STATE_DICT.items():
        assert exported[f"model.{key}"].shape == value.shape, key
        if not torch_names.is_unused(key):
            np.testing.assert_array_equal(exported[f"model.{key}"], value, err_msg=key)
    np.testing.assert_array_equal(exported[f"model.{torch_names.TRUNK_LM_HEAD}"], STATE_DICT[torch_names.EMBEDDING])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert {name: config[name] for name in LEROBOT} == LEROBOT


def test_an_export_may_be_in_bfloat16_and_the_library_reads_it(ours, tmp_path):
    export_checkpoint(ours, tmp_path / "out", "lerobot", dtype="bfloat16")
    exported = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    value = arrays(load_checkpoint(ours).model)["action_in_proj/kernel"]
    found = exported["model.action_in_proj.weight"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, value.T.astype(jnp.bfloat16))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


def test_a_model_lerobot_cannot_have_is_refused(tarball, tmp_path):
    imported(tarball / "6", tmp_path / "x", fields=TOLD)
    with pytest.raises(CheckpointError, match="4 attention heads; 8 are written into LeRobot's code"):
        export_checkpoint(tmp_path / "x", tmp_path / "out", "lerobot")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_inspect_tells_every_format_apart(ours, tarball, tmp_path, capsys):
    torch_folder(tmp_path / "lerobot", config=LEROBOT)
    for path, kind in ((ours, "of this package"), (tarball / "6", "openpi"), (tmp_path / "lerobot", "lerobot")):
        assert main(["inspect", str(path), "--leaves"]) == 0
        told = capsys.readouterr().out
        assert kind in told and "parameters: " in told and "action_in_proj" in told
    assert "not told: siglip.num_heads" in told


# --- by name ---


def test_a_bucket_is_told_how_to_copy():
    with pytest.raises(
        CheckpointError, match=r"gcloud storage cp -r gs://openpi-assets/checkpoints/pi05_base pi05_base"
    ):
        resolve("gs://openpi-assets/checkpoints/pi05_base")


def test_a_name_without_the_hubs_client_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install huggingface_hub; or download lerobot/pi05_base"):
        resolve("lerobot/pi05_base")


def hub(monkeypatch, download):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=download))


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def download(*_, **__):
        raise OSError("Name or service not known\nlong trace")

    hub(monkeypatch, download)
    with pytest.raises(CheckpointError, match=r"could not be fetched from the hub: Name or service not known\. Check"):
        resolve("lerobot/pi05_base")


def test_a_name_on_a_hub_is_imported_from_its_snapshot(monkeypatch, tmp_path):
    folder = torch_folder(tmp_path / "snapshot", config=LEROBOT)
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"]))
        return str(folder)

    hub(monkeypatch, download)
    command = ["import", "someone/pi05_mine", str(tmp_path / "x"), "--revision", "v2", "--set", "siglip.num_heads=4"]
    assert main(command) == 0
    assert asked == [("someone/pi05_mine", "v2")]
    loaded = load_checkpoint(tmp_path / "x")
    assert loaded.info.source["name"] == "someone/pi05_mine"
    assert_same(without_head(loaded), golden_leaves())


def test_what_is_neither_a_path_nor_a_name_is_told():
    with pytest.raises(CheckpointError, match="no such folder or file, and not a name on a hub"):
        resolve("/nowhere/at/all")
