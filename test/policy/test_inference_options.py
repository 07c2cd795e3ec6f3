"""Everything that saves work can be switched off, changes no number, and is what the compiled programs do."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from places import ROOT

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.make_policy import make_policy
from pi05_progress.models.config import ModelConfigError, SiglipConfig, tiny
from pi05_progress.models.parameters import HEAD, load_parameters, parameter_paths
from pi05_progress.models.pi05 import Pi05
from pi05_progress.observation import IMAGE_KEYS, RobotFrame
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policies.sampler import for_inference
from pi05_progress.policy import ALL_ON, InferenceOptions, PolicyOptions
from pi05_progress.robots.profile import RobotProfile

EXPERT = dataclasses.replace(tiny().expert, width=16, depth=2, mlp_dim=24, num_heads=2, head_dim=8)
CONFIG = dataclasses.replace(
    tiny(),
    siglip=SiglipConfig(width=16, depth=2, mlp_dim=24, num_heads=2),
    paligemma=dataclasses.replace(EXPERT, width=24, mlp_dim=32),
    expert=EXPERT,
    image_size=(28, 28),
    action_horizon=5,
    max_token_len=48,
    discrete_state=False,
)
HALVED = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
LENGTHS = (32, 48)
PROMPT, LONGER = "stack the red cube", "stack the red cube on the green cube"  # 20 and 38 tokens
NOISE = np.random.default_rng(2).standard_normal((1, 5, 32), np.float32)
FULL = RobotProfile.load("teleavatar")
TWO = FULL.model_copy(update={"cameras": {k: FULL.cameras[k] for k in ("head_camera", "left_color")}})
TWO_KEYS = tuple(sorted(c.model_input for c in TWO.cameras.values()))
SWITCHES = [field.name for field in dataclasses.fields(InferenceOptions)]


def frame(*missing):
    rng = np.random.default_rng(3)
    pictures = {key: rng.integers(0, 256, (30, 40, 3), np.uint8) for key in TWO.cameras}
    return RobotFrame({k: v for k, v in pictures.items() if k not in missing}, np.zeros(48, np.float32))


@functools.cache
def checkpoint(config=CONFIG):
    """No parameter is zero, as some of a new model's are: many differences would be invisible with those."""
    model = nnx.eval_shape(lambda: Pi05(config, nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    shapes = parameter_paths(model)
    load_parameters(model, {k: (0.3 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in shapes.items()})
    return Checkpoint(CheckpointInfo(config, robot=TWO.name), model, {})


def policy(config=CONFIG, dtype=None, **switches):
    options = dataclasses.replace(ALL_ON, **switches)
    return Pi05Policy(checkpoint(config), TWO, PolicyOptions(num_steps=3, inference=options, dtype=dtype))


@functools.cache
def shared(*off):
    """A policy without some switches, and what it answers; tests that only look share it."""
    own = policy(**dict.fromkeys(off, False))
    return own, answer(own)


def answer(policy, given=None, prompt=PROMPT, noise=NOISE):
    sample = jax.device_get(policy.sampler(policy.observe(given or frame(), prompt), noise))
    return np.concatenate([sample.actions.astype(np.float32).ravel(), sample.progress.mean])


@pytest.mark.parametrize("off", [*[(name,) for name in SWITCHES[:5]], tuple(SWITCHES)], ids=",".join)
def test_switches_change_no_number(off):
    np.testing.assert_allclose(shared(*off)[1], shared()[1], atol=2e-5)


def test_answers_depend_on_pictures_prompt_and_noise():
    """Or else the comparisons above would say little."""
    own, expected = shared()
    black = frame()
    black.images["head_camera"][:] = 0
    assert np.abs(answer(own, black) - expected)[-1] > 1e-4
    assert np.abs(answer(own, prompt="stack the tin cube") - expected)[-1] > 1e-4
    assert np.abs(answer(own, noise=0 * NOISE) - expected).max() > 0.1


def test_prompts_come_in_a_few_lengths_or_in_one():
    own, plain = shared()[0], shared("bucketed_prompts")[0]
    np.testing.assert_allclose(answer(own, prompt=LONGER), answer(plain, prompt=LONGER), atol=2e-5)
    assert own.sampler.programs == [(TWO_KEYS, 32), (TWO_KEYS, 48)]
    assert plain.sampler.programs == [(TWO_KEYS, 48)]


def test_cameras_that_the_robot_does_not_have_are_left_out_or_masked():
    plain = shared("skip_absent_cameras")[0]
    assert shared()[0].sampler.programs[0] == (TWO_KEYS, 32)
    assert plain.sampler.programs == [(tuple(sorted(IMAGE_KEYS)), 32)]
    masks = plain.observe(frame(), PROMPT).image_masks
    assert {key for key, mask in masks.items() if mask[0]} == set(TWO_KEYS)


@pytest.mark.parametrize("ahead", [True, False])
def test_modulations_are_made_ahead_or_in_the_program(monkeypatch, ahead):
    own = policy(precomputed_modulations=ahead)
    calls, plain = [], Pi05.modulation
    monkeypatch.setattr(Pi05, "modulation", lambda self, time: (calls.append(1), plain(self, time))[1])
    answer(own)
    assert bool(calls) != ahead


@pytest.mark.parametrize(("one", "programs"), [(True, 1), (False, 3)])
@pytest.mark.parametrize("donated", [True, False])
def test_a_request_is_one_program_or_three_and_noise_on_the_device_is_used_up_or_kept(one, programs, donated):
    own = policy(one_program=one, donated_noise=donated)
    observation, noise, host = own.observe(frame(), PROMPT), jnp.array(NOISE), NOISE.copy()
    with compilations() as compiled:
        jax.block_until_ready(own.sampler(observation, noise))
    assert len(compiled) == programs
    assert noise.is_deleted() == donated
    own.sampler(observation, host)
    np.testing.assert_array_equal(host, NOISE)


def test_after_the_warm_up_nothing_is_compiled_whatever_comes():
    own = policy()
    own.warm_up()
    assert own.sampler.programs == [(TWO_KEYS, length) for length in LENGTHS]
    with compilations() as compiled:
        outputs = [own.infer(frame(*missing), p) for missing in ((), ("left_color",)) for p in (PROMPT, LONGER)]
        warm = answer(own), answer(own, frame("left_color"))
    assert compiled == []
    assert all(np.isfinite(output.actions).all() for output in outputs)
    np.testing.assert_allclose(warm[0], shared()[1], atol=2e-5)
    without_warm_up = policy(warm_up=False)
    without_warm_up.warm_up()
    assert without_warm_up.sampler.programs == []
    np.testing.assert_allclose(warm[1], answer(without_warm_up, frame("left_color")), atol=2e-5)
    assert without_warm_up.sampler.programs == [(("base_0_rgb",), 32)], "a camera that fails is left out"


@pytest.mark.parametrize("kept", [True, False])
def test_compiled_programs_are_kept_on_disk_or_not(monkeypatch, tmp_path, kept):
    save_checkpoint(tmp_path / "checkpoint", checkpoint())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        options = dataclasses.replace(ALL_ON, compilation_cache=kept)
        own = make_policy(FULL, PolicyOptions(checkpoint=str(tmp_path / "checkpoint"), inference=options))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs, too
        own.infer(frame(), PROMPT)
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
        compilation_cache.reset_cache()
    assert bool(list(tmp_path.rglob("jit_sample-*"))) == kept


def test_parameters_are_kept_in_the_dtype_the_model_computes_in_cast_or_shared_and_the_head_in_float32():
    model = checkpoint(HALVED).model
    dtypes = {path: leaf.dtype for path, leaf in parameter_paths(for_inference(model)).items()}
    assert {dtype for path, dtype in dtypes.items() if not path.startswith(HEAD)} == {jnp.dtype("bfloat16")}
    assert {dtype for path, dtype in dtypes.items() if path.startswith(HEAD)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in parameter_paths(model).values()} == {jnp.dtype("float32")}, "the given is as it was"
    assert 1e-4 < np.abs(answer(policy(HALVED)) - shared()[1]).max() < 0.5
    same = for_inference(model, "float32")
    assert same.config == CONFIG
    assert all(leaf is parameter_paths(model)[path] for path, leaf in parameter_paths(same).items())


def test_a_checkpoint_is_read_into_the_dtype_asked_for(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", checkpoint())
    own = make_policy(FULL, PolicyOptions(checkpoint=str(tmp_path / "checkpoint"), dtype="bfloat16"))
    assert own.sampler.model.config.compute_dtype == "bfloat16"
    assert parameter_paths(own.sampler.model)["action_in_proj/kernel"].dtype == jnp.bfloat16


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ModelConfigError, match="dtype 'float16' is unknown; known: float32, bfloat16"):
        policy(dtype="float16")


@pytest.mark.long
def test_the_benchmark_prints_and_writes_its_figures(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "benchmarks/inference.py", "--variant", "tiny", "--repeats", "1", "--json", file]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(file.read_text())
    assert "actions + a second prefix pass" in printed
    for row in figures["denoising"]["own width"].values():
        assert row["step_arguments_bytes"] == row["step_reads_bytes"], "the compiler's count and the parameters' sizes"
    assert figures["required"]["actions + progress, FLOPs of actions only"]["met"]
    assert figures["required"]["weights per step, own width, share of plain"]["met"]
    differences = [row[kind] for row in figures["switches"].values() for kind in ("actions", "progress")]
    assert 0 < max(differences) < 1e-4
