"""LeRobot's PI05 as a policy against this package's in JAX: the same numbers from the same parameters.

Needs the extra ``torch``. LeRobot's code has full sizes only, which tests replace (``lerobot_sizes.py``).
"""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_cases import (
    HEADS,
    LEROBOT,
    SMALL,
    STATE_DICT,
    TORCH,
    arrays,
    assert_same,
    imported,
    random_model,
    torch_folder,
)
from lerobot_sizes import lerobot_of_size
from serving_helpers import PROFILE, request, serving
from websockets.sync.client import connect

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.foreign.conversion import export_checkpoint, open_foreign
from pi05_progress.checkpoints.foreign.head_file import to_torch, write_head
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.make_policy import make_policy
from pi05_progress.models import pi05
from pi05_progress.observation import IMAGE_KEYS, RobotFrame
from pi05_progress.parity import pytorch as parity_torch
from pi05_progress.policies.model_policy import ModelPolicy, Pi05Policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.wire import pack, unpack
from pi05_progress.units.normalize import NormStats

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("lerobot.policies.pi05.modeling_pi05")
from pi05_progress.policies import torch_policy  # noqa: E402

GOLDEN = parity_torch.config_of(json.loads(str(TORCH["meta/json"])))
INPUTS = {name.removeprefix("in/"): TORCH[name] for name in TORCH.files if name.startswith("in/")}
VARIANTS = ("gemma_2b", "gemma_300m")
RECORDED = 2.1e-6  # what the set's README calls a reproduction
ANGLES = 2e-4  # where angles of the time embedding are float32, as in openpi; see parity/pytorch.py
CONFIG = dataclasses.replace(SMALL, action_dim=32, vocabulary=259, max_token_len=150)
STATS = {
    "state": NormStats(np.zeros(14), np.ones(14), -np.linspace(0.5, 2, 14), np.linspace(0.6, 3, 14)),
    "actions": NormStats(np.zeros(16), np.ones(16), -np.linspace(1, 3, 16), np.linspace(1, 2, 16)),
}


def largest(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def tell(capsys, what, *numbers):
    with capsys.disabled():
        print(f"\n{what}: {', '.join(f'{n:.2e}' for n in numbers)}", end="")


# --- the golden set ---


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


# --- as a policy ---


@pytest.fixture
def lerobot():
    with lerobot_of_size(CONFIG) as modeling:
        yield modeling


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(this package's checkpoint, its export to LeRobot)."""
    base = tmp_path_factory.mktemp("policy")
    config = CONFIG.with_progress("categorical")
    info = CheckpointInfo(config, model_id="m", action_dt_s=0.05, delta_actions=True)
    save_checkpoint(base / "native", Checkpoint(info, random_model(config, scale=0.2), STATS))
    export_checkpoint(base / "native", base / "lerobot", "lerobot")
    return base / "native", base / "lerobot"


@pytest.fixture(scope="module")
def policies(folders):
    """(JAX's, PyTorch's), both by what their folders contain."""
    with lerobot_of_size(CONFIG):
        return [
            make_policy(PROFILE, PolicyOptions(checkpoint=str(folder), num_steps=3, max_batch=2)) for folder in folders
        ]


def frame(seed=0, absent=()):
    rng = np.random.default_rng(seed)
    images = {key: rng.integers(0, 256, (48, 64, 3), np.uint8) for key in PROFILE.cameras if key not in absent}
    return RobotFrame(images, rng.uniform(-0.5, 0.5, 48).astype(np.float32))


def assert_same_output(theirs, ours):
    np.testing.assert_allclose(theirs.actions, ours.actions, atol=5e-4, rtol=0)  # rad and N m, of a random model
    assert theirs.actions.dtype == np.float32
    assert type(theirs.progress) is float and theirs.progress == pytest.approx(ours.progress, abs=1e-4)
    assert theirs.progress_interval == pytest.approx(ours.progress_interval, abs=1e-4)
    np.testing.assert_allclose(theirs.progress_belief, ours.progress_belief, atol=1e-4)
    assert theirs.timing.keys() == ours.timing.keys()


def test_an_exported_checkpoint_answers_as_the_one_it_was_made_from(policies):
    ours, theirs = policies
    assert (type(ours), type(theirs)) == (Pi05Policy, ModelPolicy)
    for name in ("model_id", "horizon", "action_dt_s", "image_size", "batch_sizes"):
        assert getattr(theirs, name) == getattr(ours, name), name
    answers = []
    for seed, prompt, absent in ((0, "stack", ()), (1, "stack the red cubes", ()), (2, "stack", ("head_camera",))):
        given = frame(seed, absent)
        answers.append((theirs.infer(given, prompt), ours.infer(given, prompt)))
        assert_same_output(*answers[-1])
    assert len({round(answer.progress, 4) for answer, _ in answers}) == 3


def test_requests_that_are_computed_together_get_the_answers_of_single_ones(policies):
    ours, theirs = policies
    given = [(frame(seed), prompt) for seed, prompt in ((5, "stack"), (6, "put everything into the basket"))]
    together = theirs.infer_prepared([theirs.prepare(*one) for one in given])
    for answer, one in zip(together, given, strict=True):
        assert_same_output(answer, ours.infer(*one))


def test_warming_up_changes_no_answer(lerobot, folders):
    cold, warm = (make_policy(PROFILE, PolicyOptions(checkpoint=str(folders[1]), num_steps=2)) for _ in range(2))
    warm.warm_up()
    assert_same_output(warm.infer(frame(), "stack"), cold.infer(frame(), "stack"))


def test_the_server_serves_it_with_progress_and_in_batches(policies):
    responder = PolicyResponder(policies[1], PROFILE)
    assert responder.batch_sizes == (1, 2)
    with serving(responder) as server, connect(server.uri) as client:
        assert unpack(client.recv())["image_size"] == [28, 28]
        client.send(pack(request()))
        reply = unpack(client.recv())
    assert reply["actions"].shape == (5, 16)
    assert 0 <= reply["progress_lower"] <= reply["progress"] <= reply["progress_upper"] <= 1


def test_bfloat16_computes_in_bfloat16_and_gives_nearly_the_same(lerobot, folders, policies):
    half = make_policy(PROFILE, PolicyOptions(checkpoint=str(folders[1]), num_steps=3, dtype="bfloat16"))
    layer = half.sampler.model.paligemma_with_expert.paligemma.model.language_model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.bfloat16
    assert half.sampler.head.hidden.weight.dtype == torch.float32
    answer, exact = half.infer(frame(), "stack"), policies[1].infer(frame(), "stack")
    assert answer.progress != exact.progress
    assert answer.progress == pytest.approx(exact.progress, abs=0.02)


def test_lerobots_own_strict_loading_passes_the_head_over(lerobot, folders, capsys):
    assert (folders[1] / "progress_head.safetensors").is_file()
    lerobot.PI05Policy.from_pretrained(folders[1])
    assert "All keys loaded successfully" in capsys.readouterr().out  # it would go on with random weights otherwise


def test_without_a_head_beside_the_model_progress_is_none_and_actions_are_the_same(lerobot, folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "headless")
    (tmp_path / "headless/progress_head.safetensors").unlink()
    policy = make_policy(PROFILE, PolicyOptions(checkpoint=str(tmp_path / "headless"), num_steps=3))
    answer = policy.infer(frame(), "stack")
    assert (answer.progress, answer.progress_interval, answer.progress_belief) == (None, None, None)
    again = make_policy(PROFILE, PolicyOptions(checkpoint=str(folders[1]), num_steps=3))
    np.testing.assert_array_equal(answer.actions, again.infer(frame(), "stack").actions)


def test_what_pytorch_cannot_compute_is_refused_by_name(lerobot, folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "per_row")
    path = tmp_path / "per_row/pi05_progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"actions_per_row": True}))
    with pytest.raises(CheckpointError, match=r"\(actions_per_row\), which backend torch cannot compute"):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(path.parent)))


# --- folders that LeRobot wrote itself ---


def lerobots_own(folder, source, cameras=("head_camera", "left_color", "right_color"), change=None):
    """As LeRobot would have saved it after training on a data set of ours cut to 14 and 16 numbers."""
    shutil.copytree(source, folder)
    for name in ("pi05_progress.json",):
        (folder / name).unlink()
    shutil.rmtree(folder / "assets")
    tensors = {
        f"{theirs}.{name}": getattr(STATS[key], name).astype(np.float32)
        for key, theirs in (("state", "observation.state"), ("actions", "action"))
        for name in ("mean", "std", "q01", "q99")
    }
    if change:
        tensors = {name: change(value) for name, value in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / "normalizer.safetensors")
    step = {"registry_name": "normalizer_processor", "state_file": "normalizer.safetensors"}
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": [step]}))
    config = json.loads((folder / "config.json").read_text())
    state = config["input_features"].pop("observation.state")
    pictures = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 28, 28]} for name in cameras}
    config["input_features"] = {"observation.state": state, **pictures}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def told_heads(monkeypatch):
    """The vision tower's heads, which are known at full size only."""
    from pi05_progress.checkpoints.foreign import config_fields

    monkeypatch.setattr(config_fields, "SO400M", (CONFIG.siglip.width, CONFIG.siglip.num_heads))


def test_cameras_are_read_in_the_order_of_lerobots_configuration(lerobot, told_heads, folders, policies, tmp_path):
    names = {camera.model_input: name for name, camera in PROFILE.cameras.items()}
    head, left, right = (names[key] for key in IMAGE_KEYS)
    folder = lerobots_own(tmp_path / "own", folders[1], cameras=(right, "empty_camera_0", left, head))
    policy = make_policy(PROFILE, PolicyOptions(checkpoint=str(folder), num_steps=3))
    given = frame()
    observation = policy.observe(given, "stack")
    noise = np.random.default_rng(0).standard_normal((1, 5, 32)).astype(np.float32)
    theirs = policy.sampler(observation, noise)
    images = observation.images
    turned = dict(zip(IMAGE_KEYS, (images[key] for key in reversed(IMAGE_KEYS)), strict=True))
    model = load_checkpoint(folders[0]).model
    ours = model.sample(dataclasses.replace(observation, images=turned), noise=jnp.asarray(noise), num_steps=3)
    fixed = model.sample(observation, noise=jnp.asarray(noise), num_steps=3)
    np.testing.assert_allclose(theirs.progress.mean, ours.progress.mean, atol=1e-4)
    assert largest(theirs.actions, ours.actions) < 1e-3 < largest(ours.actions, fixed.actions)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cameras": ("front", "left_color")}, "cameras front are not known; robot teleavatar has "),
        ({"cameras": ()}, "expected at least one, each once"),
        ({"cameras": ("left_color", "left_wrist_0_rgb")}, "expected at least one, each once"),
        ({"change": lambda a: np.resize(a, 48)}, "state of 48 numbers, not 14 and actions of 48 numbers, not 16"),
    ],
)
def test_what_lerobot_trained_on_other_data_is_refused(lerobot, told_heads, folders, tmp_path, options, told):
    folder = lerobots_own(tmp_path / "own", folders[1], **options)
    with pytest.raises(CheckpointError, match=told):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(folder)))


def test_a_checkpoint_without_statistics_is_refused(lerobot, folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare/assets")
    with pytest.raises(CheckpointError, match=r"no normalisation statistics \(assets/<id>/norm_stats.json"):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(tmp_path / "bare")))


def test_sizes_that_lerobots_code_does_not_have_are_told_before_anything_is_built(folders, monkeypatch):
    def build(*_):
        raise AssertionError("built")

    monkeypatch.setattr(torch_policy.modeling_pi05, "PI05Pytorch", build)
    with pytest.raises(CheckpointError, match=r"trunk is not LeRobot's gemma_2b: width 32 instead of 2048.*import"):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(folders[1])))


def test_a_damaged_or_incomplete_model_is_an_error_and_never_random_parameters(lerobot, folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "cut")
    file = tmp_path / "cut/model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(tmp_path / "cut")))
    file.write_bytes(whole)
    tensors = safetensors.numpy.load_file(file)
    del tensors["model.action_out_proj.bias"]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"missing: 1 \(action_out_proj.bias"):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(tmp_path / "cut")))


def test_another_lerobot_whose_module_has_other_names_is_told(lerobot, folders, monkeypatch):
    make = torch_policy.modeling_pi05.PI05Pytorch

    def other(config):
        model = make(config)
        model.new_proj, model.time_mlp_in = model.action_in_proj, None
        return model

    monkeypatch.setattr(torch_policy.modeling_pi05, "PI05Pytorch", other)
    with pytest.raises(
        CheckpointError, match=r"does not fit LeRobot's PI05: missing: 2 \(new_proj.*not known: 2 \(time_mlp_in"
    ):
        make_policy(PROFILE, PolicyOptions(checkpoint=str(folders[1])))


def test_embeddings_are_read_from_lm_head_where_a_file_has_them_there_alone(tmp_path):
    name = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    tensors = {key: value for key, value in STATE_DICT.items() if key != name}
    folder = torch_folder(tmp_path / "tied", tensors, config=LEROBOT)
    with lerobot_of_size(GOLDEN):
        model = torch_policy.load_model(folder, GOLDEN, VARIANTS, "float32", "cpu")
    expected = STATE_DICT["paligemma_with_expert.paligemma.lm_head.weight"]
    np.testing.assert_array_equal(model.state_dict()[name].numpy(), expected)
