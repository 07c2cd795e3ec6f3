"""LeRobot's PI05 as a policy against this package's in JAX: the same answers from the same parameters.

Needs the extra ``torch``. LeRobot's code has full sizes only, which tests replace (``lerobot_sizes.py``).
"""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_cases import SMALL, largest, random_model
from lerobot_sizes import lerobot_of_size, torch_with_lerobot
from serving_helpers import PROFILE, request, serving
from websockets.sync.client import connect

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.foreign.conversion import export_checkpoint
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.make_policy import make_policy
from pi05_progress.observation import IMAGE_KEYS, RobotFrame
from pi05_progress.policies.model_policy import ModelPolicy, Pi05Policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.wire import pack, unpack
from pi05_progress.units.normalize import NormStats

torch = torch_with_lerobot()
from pi05_progress.policies import torch_policy  # noqa: E402

CONFIG = dataclasses.replace(SMALL, action_dim=32, vocabulary=259, max_token_len=150)
STATS = {
    "state": NormStats(np.zeros(14), np.ones(14), -np.linspace(0.5, 2, 14), np.linspace(0.6, 3, 14)),
    "actions": NormStats(np.zeros(16), np.ones(16), -np.linspace(1, 3, 16), np.linspace(1, 2, 16)),
}


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
