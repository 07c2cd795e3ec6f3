"""openpi's checkpoints: what they become here, and what is told when they are not what was expected."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_cases import GOLDEN, SETS, TOLD, arrays, assert_same, imported, orbax_restore, unpack_openpi
from conftest import PATIENCE_S
from flax.traverse_util import unflatten_dict

from pi05_progress.checkpoints.checkpoint import CheckpointError, load_checkpoint
from pi05_progress.checkpoints.foreign.config_fields import fields_of_leaves, make_config
from pi05_progress.checkpoints.foreign.conversion import ImportOptions, carry_out, export_checkpoint, plan_import
from pi05_progress.checkpoints.orbax_files import open_orbax, write_orbax
from pi05_progress.convert_checkpoint import main
from pi05_progress.models.config import CONFIGS, ModelConfigError, config_to_dict, named_config
from pi05_progress.models.parameters import parameter_shapes
from pi05_progress.parity import outputs as parity_outputs


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    return unpack_openpi(tmp_path_factory.mktemp("openpi"))


@pytest.fixture
def step(tarball, tmp_path):
    return shutil.copytree(tarball / "6", tmp_path / "run/6")


def test_openpis_own_checkpoint_comes_in_bit_for_bit(tarball, tmp_path):
    loaded, notes = imported(tarball / "6", tmp_path / "x", fields=TOLD, progress="none")
    assert_same(arrays(loaded.model), orbax_restore(tarball / "6/params"))
    assert loaded.info.asset_id == "my/asset"
    assert {key: len(stats.mean) for key, stats in loaded.stats.items()} == {"state": 8, "actions": 8}
    assert loaded.info.model.siglip.num_heads == 2
    assert loaded.info.model.image_size == (56, 56)
    assert any("train_state is left out" in note for note in notes)


def test_the_configuration_told_by_the_parameters_is_the_one_they_were_made_with(tarball):
    planned = plan_import(tarball / "6", ImportOptions(fields=TOLD, progress="none"))
    golden = parity_outputs.config_of(json.loads((GOLDEN / "tiny_a_config.json").read_text()))
    ours, theirs = config_to_dict(planned.info.model), config_to_dict(golden)
    assert {**ours, "name": ""} == {**theirs, "name": ""}


@pytest.mark.parametrize("shape", ["without train_state", "the params folder alone", "paths without value"])
def test_openpis_layouts_give_the_same_parameters(step, tmp_path, shape):
    shutil.rmtree(step / "train_state")
    source = step
    if shape == "the params folder alone":
        source = step / "params"
    elif shape == "paths without value":
        source = tmp_path / "plain"
        write_orbax(source / "params", open_orbax(step / "params"))
        assert "PaliGemma/img/head/bias" in orbax_paths(source / "params")
    loaded, notes = imported(source, tmp_path / "x", fields=TOLD, progress="none")
    assert_same(arrays(loaded.model), orbax_restore(step / "params"))
    assert not any("train_state" in note for note in notes)


def orbax_paths(params):
    listed = json.loads((params / "_METADATA").read_text())["tree_metadata"].values()
    return ["/".join(key["key"] for key in leaf["key_metadata"]).removeprefix("params/") for leaf in listed]


def test_a_folder_of_steps_asks_which(tarball):
    with pytest.raises(CheckpointError, match=r"holds steps 6; give one"):
        plan_import(tarball, ImportOptions(fields=TOLD))


def test_a_missing_head_is_initialised_and_said(tarball, tmp_path, capsys):
    assert main(["import", str(tarball / "6"), str(tmp_path / "x"), *SETS, "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "a scalar progress head is initialised (there was none; 16,897 parameters, seed 3)" in told
    assert "assumed" in told
    loaded = load_checkpoint(tmp_path / "x")
    assert loaded.info.model_id == "untrained"
    assert any("initialised" in note for note in loaded.info.source["notes"])
    head = arrays(loaded.model)["progress_head/hidden/kernel"]
    assert head.dtype == np.float32 and head.shape == (64, 256) and np.std(head) > 0


def test_the_kind_of_head_may_be_chosen(tarball, tmp_path):
    loaded, _ = imported(tarball / "6", tmp_path / "x", fields=TOLD | {"progress.bins": 20}, progress="categorical")
    assert arrays(loaded.model)["progress_head/output/kernel"].shape == (256, 20)
    assert not imported(tarball / "6", tmp_path / "y", fields=TOLD, progress="none")[0].model.has_progress


def test_a_new_head_cannot_be_published_under_a_name(tarball):
    with pytest.raises(ModelConfigError, match=r"--model-id mine: the progress head is new"):
        plan_import(tarball / "6", ImportOptions(fields=TOLD, model_id="mine"))
    assert (
        plan_import(tarball / "6", ImportOptions(fields=TOLD, progress="none")).info.model_id == "tiny_a_checkpoint/6"
    )


def test_fields_that_cannot_be_told_are_named_with_the_remedy(tarball, tmp_path, capsys):
    assert main(["import", str(tarball / "6"), str(tmp_path / "x"), "--set", "action_horizon=6"]) == 1
    told = capsys.readouterr().err
    assert "--config pi05" in told
    assert "--set max_token_len=200 --set discrete_state=true --set compute_dtype=bfloat16" in told
    assert "action_horizon" not in told
    assert not (tmp_path / "x").exists()


def test_a_configuration_that_contradicts_the_parameters_is_refused(tarball):
    with pytest.raises(ModelConfigError, match=r"does not fit configuration pi05: it has .*siglip.width 32, not 1152"):
        plan_import(tarball / "6", ImportOptions(config="pi05"))
    with pytest.raises(ModelConfigError, match=r"does not fit --set: it has action_dim 8, not 9$"):
        plan_import(tarball / "6", ImportOptions(fields=TOLD | {"action_dim": 9}))


@pytest.mark.parametrize("text", ["siglip.widht=3", "action_horizon", "action_horizon=many", "image_size=big"])
def test_a_wrong_field_on_the_command_line_is_told(tarball, tmp_path, capsys, text):
    assert main(["import", str(tarball / "6"), str(tmp_path / "x"), "--set", text]) == 1
    assert f"--set {text}: " in capsys.readouterr().err


def test_a_flag_and_its_opposite_are_refused_and_so_is_a_rate_that_is_none(tarball, tmp_path, capsys):
    command = ["import", str(tarball / "6"), str(tmp_path / "x")]
    assert main([*command, "--z-score", "--no-z-score"]) == 2
    assert "--z-score and --no-z-score: one of them" in capsys.readouterr().err
    assert main([*command, "--fps", "0"]) == 2
    assert "--fps 0.0: expected a positive number" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_what_they_lack_give_back_every_named_configuration(name):
    config = named_config(name)
    leaves = parameter_shapes(config)
    told = fields_of_leaves({path: tuple(leaf.shape) for path, leaf in leaves.items()})
    lacking = {
        "action_horizon": config.action_horizon,
        "max_token_len": config.max_token_len,
        "discrete_state": config.discrete_state,
        "compute_dtype": config.compute_dtype,
    }
    for expert in ("paligemma", "expert"):
        if getattr(config, expert).lora:
            for kind in ("lora", "feed_forward_lora"):
                alpha = getattr(getattr(config, expert), kind).alpha
                lacking |= {f"{expert}.{kind}.alpha": alpha, f"{expert}.{kind}.rank_stabilised": False}
    assert make_config(told, base=None, given=lacking, where="here") == config
    assert make_config(told, base=config, given={}, where="here") == config


def test_adapters_are_found_and_their_strength_is_asked_for(tmp_path):
    golden = np.load(GOLDEN / "tiny_lora_params.npz")
    wanted = {path: golden[path] for path in golden.files}
    tree = {"params": unflatten_dict({f"{path}/value": value for path, value in wanted.items()}, sep="/")}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "lora/params", tree)
    known = TOLD | {"action_horizon": 4, "max_token_len": 8}
    with pytest.raises(ModelConfigError, match=r"paligemma\.lora\.alpha.*--set paligemma\.lora\.alpha=16\.0"):
        plan_import(tmp_path / "lora", ImportOptions(fields=known))
    alphas = {"paligemma": 8.0, "expert": 2.0}
    for expert, alpha in alphas.items():
        for kind in ("lora", "feed_forward_lora"):
            known |= {f"{expert}.{kind}.alpha": alpha, f"{expert}.{kind}.rank_stabilised": False}
    loaded, notes = imported(tmp_path / "lora", tmp_path / "x", fields=known, progress="none")
    golden_config = parity_outputs.config_of(json.loads((GOLDEN / "tiny_lora_config.json").read_text()))
    assert (loaded.info.model.paligemma, loaded.info.model.expert) == (golden_config.paligemma, golden_config.expert)
    assert_same(arrays(loaded.model), wanted)
    assert any("LoRA" in note for note in notes)
    with pytest.raises(CheckpointError, match=r"no place for the model's adapters"):
        export_checkpoint(tmp_path / "x", tmp_path / "y", "lerobot")


def rewritten(step, change):
    """The step's parameters, changed."""
    flat = orbax_restore(step / "params")
    change(flat)
    shutil.rmtree(step / "params")
    tree = {"params": unflatten_dict({f"{path}/value": value for path, value in flat.items()}, sep="/")}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(step / "params", tree)


def test_missing_and_unknown_leaves_are_listed(step):
    def change(flat):
        del flat["time_mlp_in/bias"]
        flat["state_proj/kernel"] = np.zeros((3, 3), np.float32)

    rewritten(step, change)
    with pytest.raises(CheckpointError) as error:
        plan_import(step, ImportOptions(fields=TOLD))
    assert "missing: 1 (time_mlp_in/bias)" in str(error.value)
    assert "not known: 1 (state_proj/kernel)" in str(error.value)
    assert "looks like pi0" in str(error.value)


def test_leaves_of_another_shape_are_listed(step):
    def change(flat):
        flat["PaliGemma/img/head/bias"] = flat["PaliGemma/img/head/bias"][:-1]

    rewritten(step, change)
    with pytest.raises(
        CheckpointError, match=r"of another shape: 1 \(PaliGemma/img/head/bias: \(63,\) instead of \(64,"
    ):
        plan_import(step, ImportOptions(fields=TOLD))


def test_truncated_parameters_are_told_and_nothing_is_left(step, tmp_path):
    largest = max((p for p in (step / "params").rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 3])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        imported(step, tmp_path / "x", fields=TOLD)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_several_statistics_need_a_choice(step, tmp_path):
    shutil.copytree(step / "assets/my/asset", step / "assets/other")
    with pytest.raises(CheckpointError, match=r"statistics of my/asset, other; choose one with --asset-id"):
        plan_import(step, ImportOptions(fields=TOLD))
    planned = plan_import(step, ImportOptions(fields=TOLD, asset_id="other"))
    assert planned.info.asset_id == "other" and planned.foreign.stats
    with pytest.raises(CheckpointError, match=r"no statistics 'nope'; there are: my/asset, other"):
        plan_import(step, ImportOptions(fields=TOLD, asset_id="nope"))


def test_statistics_may_come_from_a_file(step, tmp_path):
    file = (step / "assets/my/asset/norm_stats.json").rename(tmp_path / "stats.json")
    planned = plan_import(step, ImportOptions(fields=TOLD))
    assert any("no normalisation statistics" in note for note in planned.notes)
    planned = plan_import(step, ImportOptions(fields=TOLD, norm_stats=file, asset_id="mine"))
    carry_out(planned, tmp_path / "x")
    assert len(load_checkpoint(tmp_path / "x").stats["actions"].mean) == 8
    assert (tmp_path / "x/assets/mine/norm_stats.json").is_file()


def test_an_import_may_be_stored_in_bfloat16(tarball, tmp_path):
    assert main(["import", str(tarball / "6"), str(tmp_path / "x"), *SETS, "--dtype", "bfloat16"]) == 0
    stored = arrays(load_checkpoint(tmp_path / "x").model)
    for path, value in orbax_restore(tarball / "6/params").items():
        np.testing.assert_array_equal(stored[path], value.astype(jnp.bfloat16), err_msg=path)
    assert stored["progress_head/hidden/kernel"].dtype == np.float32


def test_what_is_there_is_not_overwritten_unless_asked_for(tarball, tmp_path, capsys):
    command = ["import", str(tarball / "6"), str(tmp_path / "x"), *SETS]
    assert main(command) == 0
    (tmp_path / "x/mine").write_text("precious")
    assert main(command) == 1
    assert "already there" in capsys.readouterr().err
    assert (tmp_path / "x/mine").read_text() == "precious"
    assert main([*command, "--overwrite"]) == 0
    load_checkpoint(tmp_path / "x")
    assert not (tmp_path / "x/mine").exists()


def test_what_is_no_checkpoint_is_never_overwritten(tarball, tmp_path, capsys):
    for name in ("recording.mcap", "config.json"):  # many programs have a config.json
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_text("{}")
        assert main(["import", str(tarball / "6"), str(tmp_path / name[0]), *SETS, "--overwrite"]) == 1
        assert "not overwritten" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / name[0]).iterdir()] == [name]


def test_a_source_is_never_replaced(step, capsys):
    before = sorted(step.rglob("*"))
    for destination in (step, step / "native", step.parent):
        assert main(["import", str(step), str(destination), *SETS, "--overwrite"]) == 1
        assert "choose a" in capsys.readouterr().err
    assert sorted(step.rglob("*")) == before


def test_an_import_that_is_killed_leaves_nothing_that_looks_finished(tarball, tmp_path):
    script = """
    import os, signal, sys
    from pi05_progress.checkpoints.foreign import conversion
    conversion.write_description = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    from pi05_progress.convert_checkpoint import main
    main(sys.argv[1:])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), "import", tarball / "6", tmp_path / "x", *SETS]
    assert subprocess.run(command, timeout=PATIENCE_S, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    assert list(tmp_path.iterdir())
    for left in tmp_path.iterdir():
        with pytest.raises(CheckpointError):
            load_checkpoint(left)


@pytest.mark.parametrize("what", ["nothing", "a file", "ours"])
def test_what_is_not_recognised_is_told(tarball, tmp_path, what):
    told = "no checkpoint is recognised"
    source = tmp_path / "source"
    if what == "a file":
        source.write_text("x")
    elif what == "ours":
        imported(tarball / "6", source, fields=TOLD)
        told = "already; there is nothing to import"
    else:
        source.mkdir()
    with pytest.raises(CheckpointError, match=told):
        plan_import(source, ImportOptions())
