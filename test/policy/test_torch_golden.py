"""LeRobot's PI05 and this package's in JAX on the recorded set torch_tiny: the same numbers from the same parameters.

Needs the extra ``torch``. LeRobot's code has full sizes only, which tests replace (``lerobot_sizes.py``).
"""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import (
    HEADS,
    LEROBOT,
    STATE_DICT,
    TORCH,
    arrays,
    assert_same,
    imported,
    largest,
    random_model,
    torch_folder,
)
from lerobot_sizes import lerobot_of_size, torch_with_lerobot

from pi05_progress.checkpoints.foreign.conversion import open_foreign
from pi05_progress.checkpoints.foreign.head_file import to_torch, write_head
from pi05_progress.models import pi05
from pi05_progress.parity import pytorch as parity_torch

torch = torch_with_lerobot()
from pi05_progress.policies import torch_policy  # noqa: E402

GOLDEN = parity_torch.config_of(json.loads(str(TORCH["meta/json"])))
INPUTS = {name.removeprefix("in/"): TORCH[name] for name in TORCH.files if name.startswith("in/")}
VARIANTS = ("gemma_2b", "gemma_300m")
RECORDED = 2.1e-6  # what the set's README calls a reproduction
ANGLES = 2e-4  # where angles of the time embedding are float32, as in openpi; see parity/pytorch.py


def tell(capsys, what, *numbers):
    with capsys.disabled():
        print(f"\n{what}: {', '.join(f'{n:.2e}' for n in numbers)}", end="")


@pytest.fixture(scope="module", params=["scalar", "categorical"])
def golden(request, tmp_path_factory):
    """torch_tiny as LeRobot's folder with a random head beside it, in PyTorch, and the same imported, in JAX."""
    base = tmp_path_factory.mktemp("golden")
    folder = torch_folder(base / "lerobot", config=LEROBOT)
    config = GOLDEN.with_progress(request.param)
    rng = np.random.default_rng(3)
    shapes = {path: leaf.shape for path, leaf in arrays(random_model(config)).items() if "progress_head" in path}
    leaves = {path: 0.2 * rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
    write_head(folder, to_torch(leaves, config))
    checkpoint, _ = imported(folder, base / "native", fields=HEADS)
    assert_same({path: value for path, value in arrays(checkpoint.model).items() if path in leaves}, leaves)
    with lerobot_of_size(GOLDEN):
        model = torch_policy.load_model(folder, checkpoint.info.model, VARIANTS, "float32", "cpu")
    head = torch_policy.load_head(open_foreign(folder).source(checkpoint.info.model), checkpoint.info.model, "cpu")
    observation = parity_torch.observation_of(INPUTS, 8)
    return SimpleNamespace(ours=checkpoint.model, theirs=model, head=head, observation=observation)


def velocities(golden):
    """(PyTorch's, JAX's) at the recorded inputs and times, from one pass over prefix and suffix."""
    found, model = [], golden.theirs
    handle = model.action_out_proj.register_forward_hook(lambda _, __, out: found.append(out.numpy()))
    pictures = [torch.from_numpy(INPUTS[f"image_{i}"]) for i in range(3)]
    masks = [torch.from_numpy(INPUTS[f"image_mask_{i}"]) for i in range(3)]
    prompt = torch.from_numpy(INPUTS["tokens"]), torch.from_numpy(INPUTS["token_mask"])
    x_t, t = torch.from_numpy(INPUTS["x_t"]), torch.from_numpy(INPUTS["t"])
    with torch.no_grad():  # with noise = actions = x_t what it denoises is x_t
        model(pictures, masks, *prompt, x_t, x_t, t)
    handle.remove()
    *_, expert = golden.ours.joint_pass(golden.observation, jnp.asarray(INPUTS["x_t"]), jnp.asarray(INPUTS["t"]))
    ours = golden.ours.action_out_proj(expert)
    return found[0], np.asarray(ours)


def samples(golden):
    """(PyTorch's, JAX's) ten-step samples with their beliefs, from the recorded noise."""
    theirs = torch_policy.TorchSampler(golden.theirs, golden.head)(golden.observation, INPUTS["noise"])
    ours = golden.ours.sample(golden.observation, noise=jnp.asarray(INPUTS["noise"]), num_steps=10)
    return theirs, ours


def test_pytorch_gives_the_recorded_velocities_and_samples_and_jax_the_same_but_for_its_float32_angles(golden, capsys):
    (theirs, ours), (sample, own) = velocities(golden), samples(golden)
    recorded = TORCH["out/v_t_joint"], TORCH["out/sampled_actions"]
    differences = largest(theirs, recorded[0]), largest(sample.actions, recorded[1])
    tell(capsys, "velocities, samples, PyTorch from the recorded ones", *differences)
    tell(capsys, "velocities, samples, PyTorch from JAX", largest(theirs, ours), largest(sample.actions, own.actions))
    assert max(differences) <= RECORDED
    np.testing.assert_allclose(ours, theirs, atol=ANGLES, rtol=ANGLES)
    np.testing.assert_allclose(own.actions, sample.actions, atol=ANGLES, rtol=ANGLES)


def test_with_angles_in_float64_jax_gives_pytorchs_velocities_and_samples(golden, monkeypatch, capsys):
    """The whole difference between the two is the precision of the time embedding's angles."""

    def embedding(time, width):
        def exact(time):
            period = 4e-3 * (4.0 / 4e-3) ** np.linspace(0, 1, width // 2)
            angles = 2 * np.pi * np.asarray(time, float)[..., None] / period
            return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)

        shape = jax.ShapeDtypeStruct((*time.shape, width), jnp.float32)
        return jax.pure_callback(exact, shape, time, vmap_method="sequential")

    monkeypatch.setattr(pi05, "time_embedding", embedding)
    monkeypatch.setattr(pi05, "time_steps", lambda n: (1 - np.arange(n) / n).astype(np.float32))
    (theirs, ours), (sample, own) = velocities(golden), samples(golden)
    tell(capsys, "the same with angles in float64", largest(theirs, ours), largest(sample.actions, own.actions))
    assert largest(theirs, ours) <= RECORDED and largest(sample.actions, own.actions) <= RECORDED


def test_progress_is_that_of_jax_after_converting_the_head(golden, capsys):
    theirs, ours = (sample.progress for sample in samples(golden))
    tell(capsys, f"progress {np.round(theirs.mean, 3)}", largest(theirs.mean, ours.mean))
    assert np.ptp(theirs.mean) > 1e-3, "the two samples differ, or nothing is compared"
    assert (theirs.bins is None) == (ours.bins is None)
    for name in ("mean", "bins", "lower", "upper"):
        if getattr(ours, name) is not None:
            np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=1e-4, rtol=0, err_msg=name)


def test_the_head_reads_the_pass_that_fills_the_cache_and_there_is_no_other(golden):
    both = golden.theirs.paligemma_with_expert
    watched = {
        "trunk": both.paligemma.model.language_model.layers[0],
        "expert": both.gemma_expert.model.layers[0],
        "vision": both.paligemma.model.vision_tower,
    }
    counts = dict.fromkeys(watched, 0)

    def count(name):
        return lambda *_: counts.update({name: counts[name] + 1})

    handles = [module.register_forward_pre_hook(count(name)) for name, module in watched.items()]
    with_head = torch_policy.TorchSampler(golden.theirs, golden.head)(golden.observation, INPUTS["noise"])
    assert counts == {"trunk": 1, "expert": 10, "vision": 3}
    without = torch_policy.TorchSampler(golden.theirs, None)(golden.observation, INPUTS["noise"])
    assert counts == {"trunk": 2, "expert": 20, "vision": 6}, "a head costs no pass"
    for handle in handles:
        handle.remove()
    assert with_head.progress is not None and without.progress is None
    np.testing.assert_array_equal(with_head.actions, without.actions)


def test_what_the_head_is_given_is_the_recorded_output_of_the_trunk(golden):
    seen = []

    class Watching(torch_policy.ProgressHead):
        def forward(self, tokens, mask):
            seen.append((tokens.numpy(), mask.numpy()))
            return super().forward(tokens, mask)

    head = Watching(golden.head.config, GOLDEN.paligemma.width)
    torch_policy.TorchSampler(golden.theirs, head)(golden.observation, INPUTS["noise"])
    [(tokens, mask)] = seen
    np.testing.assert_array_equal(mask, TORCH["out/prefix_pad_mask"].astype(bool))
    np.testing.assert_allclose(tokens[mask], TORCH["out/cached_prefix_out"][mask], atol=RECORDED, rtol=0)


def test_what_is_masked_is_never_pooled(golden):
    tokens = torch.randn(2, 5, GOLDEN.paligemma.width)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    spoilt = torch.where(mask[..., None], tokens, float("nan"))
    with torch.no_grad():
        alone = golden.head(tokens[:1, [0, 1, 3]], torch.ones(1, 3, dtype=bool))
        torch.testing.assert_close(golden.head(spoilt, mask)[0], alone[0])
        assert torch.isfinite(golden.head(spoilt, mask)).all(), "also where nothing is valid"


def test_a_head_that_pytorch_saves_is_imported_bit_for_bit(golden, tmp_path):
    folder = torch_folder(tmp_path / "lerobot", config=LEROBOT)
    golden.head.save(folder)
    checkpoint, notes = imported(folder, tmp_path / "native", fields=HEADS)
    assert any("progress head is kept" in note for note in notes)
    assert_same(arrays(checkpoint.model), arrays(golden.ours))


def test_embeddings_are_read_from_lm_head_where_a_file_has_them_there_alone(tmp_path):
    name = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    tensors = {key: value for key, value in STATE_DICT.items() if key != name}
    folder = torch_folder(tmp_path / "tied", tensors, config=LEROBOT)
    with lerobot_of_size(GOLDEN):
        model = torch_policy.load_model(folder, GOLDEN, VARIANTS, "float32", "cpu")
    expected = STATE_DICT["paligemma_with_expert.paligemma.lm_head.weight"]
    np.testing.assert_array_equal(model.state_dict()[name].numpy(), expected)
