"""Checkpoints that several tests use, and ways to make, read and compare them."""

import json
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from places import GOLDEN

from pi05_progress.checkpoints.checkpoint import Checkpoint, load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.foreign.conversion import ImportOptions, carry_out, plan_import
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.models.config import GemmaConfig, Pi05Config, SiglipConfig
from pi05_progress.models.parameters import abstract_model, load_parameters, parameter_paths
from pi05_progress.parity import pytorch as parity_torch
from pi05_progress.units.normalize import NormStats

TOLD = {"action_horizon": 6, "max_token_len": 12, "discrete_state": True, "compute_dtype": "float32"}
SETS = [f"--set={name}={str(value).lower()}" for name, value in TOLD.items()]


SMALL = Pi05Config(
    name="small",
    siglip=SiglipConfig(width=16, depth=2, mlp_dim=24, num_heads=2),
    paligemma=GemmaConfig(width=32, depth=2, mlp_dim=48, num_heads=8, num_kv_heads=1, head_dim=8),
    expert=GemmaConfig(width=16, depth=2, mlp_dim=32, num_heads=8, num_kv_heads=1, head_dim=8),
    image_size=(28, 28),
    vocabulary=64,
    action_dim=4,
    action_horizon=5,
    max_token_len=16,
    compute_dtype="float32",
    remat="none",
)
STATS = {key: NormStats(np.zeros(n), np.ones(n), -np.ones(n), np.ones(n)) for key, n in (("state", 14), ("actions", 4))}


def random_model(config, seed=0, scale=1.0):
    """No parameter is zero, so that none can be mixed up with another unnoticed."""
    model, rng = abstract_model(config), np.random.default_rng(seed)
    shapes = {path: leaf.shape for path, leaf in parameter_paths(model).items()}
    values = {path: scale * rng.standard_normal(shape) for path, shape in shapes.items()}
    load_parameters(model, {path: value.astype(np.float32) for path, value in values.items()})
    return model


def arrays(model):
    return {path: np.array(value) for path, value in parameter_paths(model).items()}


def without_head(checkpoint):
    return {path: value for path, value in arrays(checkpoint.model).items() if not path.startswith("progress_head/")}


def largest(a, b):
    """How much they differ."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert value.dtype == theirs[path].dtype, path
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def unpack_openpi(folder):
    """openpi's own checkpoint, step 6, from the golden set."""
    with tarfile.open(GOLDEN / "tiny_a_checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "tiny_a_checkpoint"


def save_ours(folder):
    """A checkpoint of this package with everything in it that an export could lose."""
    info = CheckpointInfo(
        SMALL, robot="somebot", model_id="m1", action_dt_s=0.05, asset_id="a/b", quantiles=False, labels={"method": "x"}
    )
    checkpoint = Checkpoint(info, random_model(SMALL), STATS)
    save_checkpoint(folder, checkpoint)
    return checkpoint


def orbax_restore(params):
    """As openpi restores: with the metadata's tree, every leaf as an array, ``value`` taken off."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        item = {"params": checkpointer.metadata(params).item_metadata["params"]}
        given = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(restore_type=np.ndarray), item)
        tree = checkpointer.restore(params, ocp.args.PyTreeRestore(item=item, restore_args=given))["params"]
    flat = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    assert all(path.endswith("/value") for path in flat)
    return {path.removesuffix("/value"): np.asarray(leaf) for path, leaf in flat.items()}


def imported(source, destination, **options):
    planned = plan_import(source, ImportOptions(**options))
    carry_out(planned, destination)
    return load_checkpoint(destination, need_stats=False), planned.notes


TORCH = np.load(GOLDEN / "torch_tiny.npz")
STATE_DICT = {name.removeprefix("sd/"): TORCH[name] for name in TORCH.files if name.startswith("sd/")}
LEROBOT = {
    "type": "pi05",
    "chunk_size": 6,
    "max_action_dim": 8,
    "image_resolution": [28, 28],
    "tokenizer_max_length": 12,
    "dtype": "float32",
}
HEADS = {"siglip.num_heads": 4}


def torch_folder(folder, tensors=None, prefix="model.", config=None):
    folder.mkdir()
    tensors = STATE_DICT if tensors is None else tensors
    safetensors.numpy.save_file({prefix + key: value for key, value in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def golden_leaves():
    """The leaves that the golden state dict becomes; the parity tool checks that they give LeRobot's numbers."""
    with np.load(GOLDEN / "torch_tiny.npz") as golden:
        config = parity_torch.config_of(json.loads(str(golden["meta/json"])))
    return arrays(parity_torch.model_of(config, STATE_DICT, "torch_tiny.npz"))


def golden_difference(checkpoint):
    """Largest difference of velocities and of samples from LeRobot's recorded ones."""
    inputs = {name.removeprefix("in/"): TORCH[name] for name in TORCH.files if name.startswith("in/")}
    observation = parity_torch.observation_of(inputs, 8)
    model = checkpoint.model
    *_, expert = model.joint_pass(observation, jnp.asarray(inputs["x_t"]), jnp.asarray(inputs["t"]))
    velocity = model.action_out_proj(expert)
    actions = model.sample(observation, noise=jnp.asarray(inputs["noise"]), num_steps=10).actions
    pairs = ((velocity, "out/v_t_joint"), (actions, "out/sampled_actions"))
    return max(float(np.abs(np.asarray(ours) - TORCH[name]).max()) for ours, name in pairs)
