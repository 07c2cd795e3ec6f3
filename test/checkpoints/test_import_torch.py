"""PyTorch checkpoints of openpi and LeRobot: what they become here, and what is told about wrong ones."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_cases import (
    GOLDEN,
    HEADS,
    LEROBOT,
    STATE_DICT,
    TOLD,
    TORCH,
    arrays,
    assert_same,
    golden_difference,
    golden_leaves,
    imported,
    torch_folder,
    without_head,
)

from pi05_progress.checkpoints.checkpoint import CheckpointError
from pi05_progress.checkpoints.foreign import torch_parameters as torch_names
from pi05_progress.checkpoints.foreign.conversion import ImportOptions, plan_import
from pi05_progress.models.config import ModelConfigError
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.parity import pytorch as parity_torch
from pi05_progress.parity.__main__ import main as parity_main


def test_a_lerobot_checkpoint_gives_lerobots_velocities_and_samples(tmp_path):
    loaded, _ = imported(torch_folder(tmp_path / "lerobot", config=LEROBOT), tmp_path / "x", fields=HEADS)
    assert golden_difference(loaded) < 1e-4
    assert loaded.info.source["kind"] == "lerobot"
    assert loaded.info.quantiles
    assert (loaded.info.model.action_horizon, loaded.info.model.max_token_len) == (6, 12)


def test_an_openpi_pytorch_checkpoint_has_the_names_without_prefix(tmp_path):
    source = torch_folder(tmp_path / "torch", prefix="", config={"action_horizon": 6, "action_dim": 8})
    (source / "assets/lab/robot").mkdir(parents=True)
    shutil.copy(GOLDEN / "transforms/norm_stats_example/norm_stats.json", source / "assets/lab/robot/norm_stats.json")
    known = HEADS | {name: value for name, value in TOLD.items() if name != "action_horizon"}
    loaded, _ = imported(source, tmp_path / "x", fields=known)
    assert_same(without_head(loaded), golden_leaves())
    assert (loaded.info.source["kind"], loaded.info.asset_id) == ("openpi-pytorch", "lab/robot")


def test_heads_that_shapes_do_not_tell_are_asked_for(tmp_path):
    with pytest.raises(ModelConfigError, match=r"siglip\.num_heads \(heads of the vision tower\).*--set siglip\.num_h"):
        plan_import(torch_folder(tmp_path / "lerobot", config=LEROBOT), ImportOptions())


def test_embeddings_are_read_from_embed_tokens_and_only_without_it_from_lm_head(tmp_path):
    table = STATE_DICT[torch_names.EMBEDDING]
    assert (table != STATE_DICT[torch_names.TRUNK_LM_HEAD]).any()
    both, _ = imported(torch_folder(tmp_path / "both", config=LEROBOT), tmp_path / "x", fields=HEADS)
    tied = {key: value for key, value in STATE_DICT.items() if key != torch_names.EMBEDDING}
    one, notes = imported(torch_folder(tmp_path / "tied", tied, config=LEROBOT), tmp_path / "y", fields=HEADS)
    path = "PaliGemma/llm/embedder/input_embedding"
    np.testing.assert_array_equal(arrays(both.model)[path], table)
    np.testing.assert_array_equal(arrays(one.model)[path], STATE_DICT[torch_names.TRUNK_LM_HEAD])
    assert any("lm_head" in note for note in notes)


def test_bfloat16_tensors_keep_their_bits_and_mixed_ones_the_wider_type(tmp_path):
    mixed = {key: value.astype(jnp.bfloat16) for key, value in STATE_DICT.items()}
    kept = f"{torch_names.VISION}embeddings.patch_embedding.bias"
    mixed[kept] = STATE_DICT[kept]
    loaded, _ = imported(torch_folder(tmp_path / "mixed", mixed, config=LEROBOT), tmp_path / "x", fields=HEADS)
    found = arrays(loaded.model)
    np.testing.assert_array_equal(found["PaliGemma/llm/final_norm/scale"], mixed[f"{torch_names.TRUNK}norm.weight"])
    assert found["PaliGemma/llm/final_norm/scale"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["PaliGemma/img/embedding/bias"], STATE_DICT[kept])
    assert found["PaliGemma/img/embedding/bias"].dtype == np.float32


def test_another_order_of_cameras_is_told(tmp_path):
    names = ("head_camera", "empty_camera_0", "left_color")
    features = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 28, 28]} for name in names}
    folder = torch_folder(tmp_path / "lerobot", config=LEROBOT | {"input_features": features})
    _, notes = imported(folder, tmp_path / "x", fields=HEADS)
    assert any("came in the order head_camera, left_color; this package's" in note for note in notes)
    in_order = {f"observation.images.{name}": {} for name in IMAGE_KEYS}
    folder = torch_folder(tmp_path / "same", config=LEROBOT | {"input_features": in_order})
    assert not any("order" in note for note in imported(folder, tmp_path / "y", fields=HEADS)[1])


def test_missing_and_unknown_tensors_are_listed(tmp_path):
    tensors = dict(STATE_DICT)
    del tensors["time_mlp_out.bias"], tensors[f"{torch_names.EXPERT}layers.1.mlp.up_proj.weight"]
    tensors["state_proj.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(CheckpointError) as error:
        plan_import(torch_folder(tmp_path / "x", tensors, config=LEROBOT), ImportOptions(fields=HEADS))
    text = str(error.value)
    assert f"missing: 2 ({torch_names.EXPERT}layers.1.mlp.up_proj.weight, time_mlp_out.bias)" in text
    assert "not known: 1 (state_proj.weight)" in text
    assert "looks like pi0" in text


def test_tensors_of_another_shape_are_listed(tmp_path):
    tensors = dict(STATE_DICT)
    key = f"{torch_names.EXPERT}layers.1.mlp.up_proj.weight"
    tensors[key] = tensors[key][:-1]
    with pytest.raises(
        CheckpointError, match=r"of another shape: 1 \(.*up_proj\.weight: \(47, 32\) instead of \(48, 32\)"
    ):
        plan_import(torch_folder(tmp_path / "x", tensors, config=LEROBOT), ImportOptions(fields=HEADS))


@pytest.mark.parametrize("share", [0.5, 0.9999, 0.001, 0.0])
def test_a_truncated_safetensors_file_is_told(tmp_path, share):
    folder = torch_folder(tmp_path / "x", config=LEROBOT)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file, truncated or damaged"):
        plan_import(folder, ImportOptions(fields=HEADS))


def test_another_policy_of_lerobots_is_told(tmp_path):
    folder = torch_folder(tmp_path / "x", config={"type": "smolvla"})
    with pytest.raises(CheckpointError, match="of type 'smolvla'; only pi05 is known"):
        plan_import(folder, ImportOptions())


def test_a_model_in_several_files_is_read_by_its_index(tmp_path):
    folder = torch_folder(tmp_path / "x", config=LEROBOT)
    tensors = {f"model.{key}": value for key, value in STATE_DICT.items()}
    (folder / "model.safetensors").unlink()
    names, files = sorted(tensors), ("model-1.safetensors", "model-2.safetensors")
    for i, file in enumerate(files):
        safetensors.numpy.save_file({name: tensors[name] for name in names[i::2]}, folder / file)
    placed = {name: files[i % 2] for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    loaded, _ = imported(folder, tmp_path / "y", fields=HEADS)
    assert_same(without_head(loaded), golden_leaves())
    (folder / files[0]).unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: no such file"):
        plan_import(folder, ImportOptions(fields=HEADS))


def test_statistics_of_lerobots_preprocessor_are_carried_over(tmp_path):
    folder = torch_folder(
        tmp_path / "x",
        config=LEROBOT | {"normalization_mapping": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}},
    )
    state = "policy_preprocessor_step_3_normalizer_processor.safetensors"
    step = {"registry_name": "normalizer_processor", "config": {}, "state_file": state}
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": [{"registry_name": "x"}, step]}))
    values = {
        f"{key}.{name}": np.arange(3, dtype=np.float32)
        for key in ("observation.state", "action")
        for name in ("mean", "std")
    }
    safetensors.numpy.save_file(values, folder / state)
    loaded, _ = imported(folder, tmp_path / "y", fields=HEADS)
    assert not loaded.info.quantiles
    assert loaded.info.asset_id == "lerobot"
    np.testing.assert_array_equal(loaded.stats["actions"].std, [0, 1, 2])
    assert loaded.stats["state"].q01 is None


def test_statistics_without_the_quantiles_a_model_normalises_by_are_told(tmp_path):
    stats = {key: {"mean": [0.0], "std": [1.0], "q01": None, "q99": None} for key in ("state", "actions")}
    (tmp_path / "stats.json").write_text(json.dumps({"norm_stats": stats}))
    folder = torch_folder(tmp_path / "lerobot", config=LEROBOT)
    options = {"fields": HEADS, "norm_stats": tmp_path / "stats.json"}
    told = "the statistics of state and actions have no quantiles"
    assert any(told in note for note in plan_import(folder, ImportOptions(**options)).notes)
    assert not any(told in note for note in plan_import(folder, ImportOptions(**options, quantiles=False)).notes)


def test_the_parity_tool_checks_the_torch_set(capsys):
    assert parity_main([str(GOLDEN / "torch_tiny.npz")]) == 0
    told = capsys.readouterr().out
    assert "v_t_joint" in told and "sampled_actions" in told
    assert "19 quantities compared, 0 exceed" in told


def checks_of(folder, **changed):
    data = {key: TORCH[key] for key in TORCH.files} | {
        name.replace("__", "/"): value for name, value in changed.items()
    }
    np.savez(folder / "changed.npz", **data)
    return {check.name.removeprefix("torch "): check.ok for check in parity_torch.check(folder / "changed.npz")}


def test_the_parity_tool_notices_recorded_numbers_that_are_a_little_off(tmp_path):
    off = {
        "out__v_t_joint": TORCH["out/v_t_joint"] + np.float32(5e-3),
        "out__loss_elementwise": TORCH["out/loss_elementwise"] * np.float32(1.01),
        "out__position_ids": TORCH["out/position_ids"] + 1,
        "out__something": np.zeros(3),  # this model has no such quantity
    }
    checks = checks_of(tmp_path, **off)
    wrong = {name for name, ok in checks.items() if not ok}
    assert wrong == {"v_t_joint", "loss_elementwise", "loss", "position_ids", "something"}
    assert len(checks) > 15


def test_the_parity_tool_notices_a_parameter_that_is_a_little_off(tmp_path):
    name = "action_out_proj.bias"
    checks = checks_of(tmp_path, **{f"sd__{name}": TORCH[f"sd/{name}"] + np.float32(5e-3)})
    assert not checks["v_t_joint"] and not checks["v_t_cached"]
    assert checks["joint_suffix_out"]


def test_a_damaged_torch_set_is_told(tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes((GOLDEN / "torch_tiny.npz").read_bytes()[:1000])
    assert parity_main([str(tmp_path / "cut.npz")]) == 1
    assert "cut.npz is damaged" in capsys.readouterr().err
