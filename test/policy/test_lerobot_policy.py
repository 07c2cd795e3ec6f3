"""An export in the hands of LeRobot's own PI05, and what LeRobot saves back in ours. Needs the extra ``torch``."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import SMALL, STATS, arrays, assert_same, random_model
from lerobot_sizes import lerobot_of_size

from pi05_progress.checkpoints.checkpoint import Checkpoint, load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.convert_checkpoint import main
from pi05_progress.models.observation import Observation
from pi05_progress.observation import IMAGE_KEYS

CONFIG = dataclasses.replace(SMALL.with_progress("none"), action_dim=32)
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def lerobot():
    with lerobot_of_size(CONFIG) as modeling:
        yield modeling


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "checkpoint"
    info = CheckpointInfo(CONFIG, model_id="m", asset_id="a")
    save_checkpoint(folder, Checkpoint(info, random_model(CONFIG, scale=0.2), STATS))
    return folder


@pytest.fixture
def policy(lerobot, ours, tmp_path, capsys):
    assert main(["export", str(ours), str(tmp_path / "lerobot"), "--to", "lerobot"]) == 0
    loaded = lerobot.PI05Policy.from_pretrained(tmp_path / "lerobot")
    told = capsys.readouterr().out
    assert "All keys loaded successfully" in told  # it would go on with random weights, and only print a warning
    return loaded.eval()


def inputs():
    rng = np.random.default_rng(5)
    b, a, d, length = 2, CONFIG.action_horizon, CONFIG.action_dim, 11
    images = {key: rng.uniform(-1, 1, (b, *CONFIG.image_size, 3)).astype(np.float32) for key in IMAGE_KEYS}
    masks = {key: np.ones(b, bool) for key in IMAGE_KEYS}
    masks[IMAGE_KEYS[2]][1] = False
    images[IMAGE_KEYS[2]][1] = -1
    tokens = rng.integers(1, CONFIG.vocabulary, (b, length)).astype(np.int32)
    token_mask = np.arange(length) < np.array([[9], [6]])
    observation = Observation(images, masks, np.zeros((b, d), np.float32), tokens * token_mask, token_mask)
    noise, actions = rng.standard_normal((2, b, a, d)).astype(np.float32)
    return observation, noise, actions, np.array([0.3, 0.85], np.float32)


def to_torch(observation):
    import torch

    pictures = [torch.from_numpy(np.moveaxis(observation.images[key], -1, 1).copy()) for key in IMAGE_KEYS]
    masks = [torch.from_numpy(observation.image_masks[key]) for key in IMAGE_KEYS]
    tokens = torch.from_numpy(np.asarray(observation.tokenized_prompt)).long()
    return pictures, masks, tokens, torch.from_numpy(np.asarray(observation.tokenized_prompt_mask))


@pytest.mark.long
def test_lerobots_own_policy_gives_the_velocities_losses_and_samples_of_the_exported_model(policy, ours, capsys):
    import torch

    model = load_checkpoint(ours).model
    observation, noise, actions, time = inputs()
    given = to_torch(observation)
    velocities = []
    policy.model.action_out_proj.register_forward_hook(lambda _, __, out: velocities.append(out.detach().numpy()))
    with torch.no_grad():
        loss = policy.model.forward(*given, *map(torch.from_numpy, (actions, noise, time))).numpy()
        samples = policy.model.sample_actions(*given, noise=torch.from_numpy(noise), num_steps=10).numpy()
    t = time[:, None, None]
    x_t = t * noise + (1 - t) * actions
    losses = model.compute_loss_with_progress(jax.random.key(0), observation, actions, noise=noise, time=time).action
    *_, expert = model.joint_pass(observation, jnp.asarray(x_t), jnp.asarray(time))
    found = {
        "velocity": (model.action_out_proj(expert), velocities[0]),
        "loss": (losses, loss.mean(axis=-1)),
        "samples": (model.sample(observation, noise=jnp.asarray(noise), num_steps=10).actions, samples),
    }
    for name, (a, b) in found.items():
        difference, largest = np.abs(np.asarray(a) - b).max(), np.abs(b).max()
        with capsys.disabled():
            print(f"\n{name}: largest difference {difference:.2e}, largest value {largest:.3g}")
        np.testing.assert_allclose(np.asarray(a), b, **TOLERANCE, err_msg=name)


@pytest.mark.long
def test_what_lerobot_saves_comes_back_unchanged(policy, ours, tmp_path):
    policy.save_pretrained(tmp_path / "saved")
    heads = f"siglip.num_heads={CONFIG.siglip.num_heads}"
    command = ["import", str(tmp_path / "saved"), str(tmp_path / "back"), "--set", heads, "--progress", "none"]
    assert main(command) == 0
    back = load_checkpoint(tmp_path / "back", need_stats=False)
    assert_same(arrays(back.model), arrays(load_checkpoint(ours).model))
    before, after = CONFIG, back.info.model
    assert (after.action_horizon, after.max_token_len) == (before.action_horizon, before.max_token_len)
