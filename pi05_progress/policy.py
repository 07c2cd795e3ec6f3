"""What callers use: a frame of the robot and an instruction become actions and a belief about progress."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from .checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_info, untrained
from .image_keys import IMAGE_KEYS
from .models.config import Pi05Config, named_config
from .models.input_checks import check_observation
from .models.noise import next_noise
from .normalize import NormStats, NormStatsError, normalize, unnormalize
from .observation import Observation, ObservationError, PolicyOutput, RobotFrame
from .robots.profile import RobotProfile
from .robots.teleavatar import ACTION_INDEX, STATE_INDEX, absolute_actions
from .sampler import ALL_ON, Dtype, InferenceOptions, Sampler, for_inference, inference_dtype
from .tokenizer import ByteEncoder, PromptError, PromptTokenizer, SentencePieceEncoder, clean
from .transforms import actions_from_model, pad_to, resize_with_pad, state_to_model

UNTRAINED = "untrained"
CONFIDENCE = 0.9


class Policy(Protocol):
    """Anything that can answer a frame. Not thread-safe unless it says so."""

    model_id: str  # UNTRAINED if its answers mean nothing
    horizon: int  # rows of a chunk
    action_dt_s: float  # time between rows

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """Actions and progress for one frame; returns when the device is done."""

    def warm_up(self) -> None:
        """Do what makes the first call slow before it is needed."""


class Pi05Policy:
    """Pi0.5 with its transforms, statistics and tokenizer.

    Args:
        checkpoint: the model and what it needs.
        profile: the robot; must be the one the checkpoint was made for.
        tokenizer_path: PaliGemma's tokenizer, for models that use it.
        num_steps: denoising steps.
        seed: of the noise that actions start from, drawn as openpi's policy does (its seed is 0).
        options: what is computed ahead or left out.
        dtype: to compute and to keep parameters in; None takes what the checkpoint's configuration says.

    Raises:
        CheckpointError: the checkpoint is of another robot, or its statistics or sizes do not fit the robot's.
        TokenizerError: the tokenizer cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        profile: RobotProfile,
        *,
        tokenizer_path: Path | None = None,
        num_steps: int = 10,
        seed: int = 0,
        options: InferenceOptions = ALL_ON,
        dtype: Dtype | None = None,
    ) -> None:
        info = checkpoint.info
        if info.robot != profile.name:
            raise CheckpointError(f"the checkpoint was made for robot {info.robot}, the profile is {profile.name}")
        self.model_id, self.action_dt_s, self.horizon = info.model_id, info.action_dt_s, info.model.action_horizon
        _check_sizes(info.model, checkpoint.stats, info.quantiles)
        self._info, self._stats, self._profile = info, checkpoint.stats, profile
        encoder = ByteEncoder() if info.tokenizer == "bytes" else SentencePieceEncoder(tokenizer_path or Path())
        if encoder.vocabulary > info.model.vocabulary:
            raise CheckpointError(f"the tokenizer has {encoder.vocabulary} tokens, the model {info.model.vocabulary}")
        self._tokenize = PromptTokenizer(encoder, info.model.max_token_len, options.bucketed_prompts, cut=False)
        self._key = jax.random.key(seed)
        self._options, self._encoded = options, None if options.skip_absent_cameras else IMAGE_KEYS
        self.sampler = Sampler(for_inference(checkpoint.model, dtype), num_steps, options)

    def observe(self, frame: RobotFrame, prompt: str) -> Observation:
        """The model's input for a frame, a batch of one, on the host.

        Cameras that the profile does not have are left out, and so are those that the frame lacks, until ``warm_up``:
        from then on the profile's cameras are always given, masked where the frame lacks them, so that a camera that
        fails does not make a running robot wait for the compiler.

        Raises:
            ObservationError: the prompt is empty or too long, or something the frame holds cannot be used.
            LayoutError: the state has another number of values than the robot's.
        """
        if not clean(prompt).strip():
            raise ObservationError(
                "the prompt is empty: no task is set; give an instruction, such as 'stack the cubes'"
            )
        frame.check()
        height, width = self._info.model.image_size
        cameras = {camera.model_input: key for key, camera in self._profile.cameras.items()}
        present = {
            model_key: resize_with_pad(frame.images[key], height, width)[None]
            for model_key, key in cameras.items()
            if key in frame.images
        }
        encoded = present if self._encoded is None else self._encoded
        state = state_to_model(frame.state)
        if self._stats:
            state = normalize(state, self._stats["state"], self._info.quantiles).astype(np.float32)
        try:
            tokens, mask = self._tokenize(prompt, state if self._info.model.discrete_state else None)
        except PromptError as error:
            raise ObservationError(str(error)) from error
        observation = Observation(
            images={key: present.get(key, np.zeros((1, height, width, 3), np.uint8)) for key in encoded},
            image_masks={key: np.array([key in present]) for key in encoded},
            state=pad_to(state, self._info.model.action_dim)[None],
            tokenized_prompt=tokens[None],
            tokenized_prompt_mask=mask[None],
        )
        check_observation(self._info.model, observation)
        return observation

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """See ``Policy``."""
        started = time.perf_counter()
        observation = self.observe(frame, prompt)
        model = self._info.model
        self._key, noise = next_noise(self._key, (1, model.action_horizon, model.action_dim))
        prepared = time.perf_counter()
        sample = jax.device_get(
            self.sampler(observation, noise)
        )  # all at once: indexing on the device is a program, too
        done = time.perf_counter()
        actions = sample.actions[0]
        if self._stats:
            actions = unnormalize(actions, self._stats["actions"], self._info.quantiles)
        actions = actions[..., :16]
        if self._info.delta_actions:
            actions = absolute_actions(actions, state_to_model(frame.state))
        actions = actions_from_model(actions, self._profile)
        belief = sample.progress
        interval = bins = None
        if belief is not None and belief.bins is not None:
            interval, bins = (float(belief.lower[0]), float(belief.upper[0])), belief.bins[0]
        return PolicyOutput(
            actions=actions,
            progress=None if belief is None else float(belief.mean[0]),
            progress_interval=interval,
            progress_belief=bins,
            timing={
                "transforms": 1e3 * (prepared - started + time.perf_counter() - done),
                "model": 1e3 * (done - prepared),
            },
            confidence_level=CONFIDENCE,
        )

    def warm_up(self) -> None:
        """Compile for the profile's cameras and every length a prompt can have: four programs at most, none later."""
        if not self._options.warm_up:
            return
        model = self._info.model
        if self._options.skip_absent_cameras:
            self._encoded = tuple(sorted(camera.model_input for camera in self._profile.cameras.values()))
        for length in self._tokenize.lengths:
            images = {key: np.zeros((1, *model.image_size, 3), np.uint8) for key in self._encoded}
            masks = {key: np.ones(1, bool) for key in images}
            state, tokens = np.zeros((1, model.action_dim), np.float32), np.zeros((1, length), np.int32)
            observation = Observation(images, masks, state, tokens, np.ones((1, length), bool))
            _, noise = next_noise(self._key, (1, model.action_horizon, model.action_dim))
            jax.block_until_ready(self.sampler(observation, noise))


def _check_sizes(model: Pi05Config, stats: Mapping[str, NormStats], quantiles: bool) -> None:
    """Refuse a model or statistics that the robot's numbers do not fit, before the first frame finds out."""
    state, actions = len(STATE_INDEX), len(ACTION_INDEX)
    if model.action_dim < actions:
        raise CheckpointError(f"the model has {model.action_dim} action dimensions, the robot needs {actions}")
    if not stats:
        return
    if missing := {"state", "actions"} - set(stats):
        raise CheckpointError(f"the statistics lack {', '.join(sorted(missing))}; they have {', '.join(sorted(stats))}")
    for key, size in (("state", state), ("actions", actions)):
        if len(stats[key].mean) < size:
            raise CheckpointError(f"the statistics of {key} have {len(stats[key].mean)} numbers, the robot has {size}")
    try:
        normalize(np.zeros(state), stats["state"], quantiles)
        unnormalize(np.zeros(model.action_dim), stats["actions"], quantiles)
    except NormStatsError as error:
        raise CheckpointError(f"the statistics do not fit: {error}") from error


def use_compilation_cache(folder: Path = Path("~/.cache/pi05_progress/jax")) -> None:
    """Keep compiled programs over restarts, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR)."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder.expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def make_policy(
    profile: RobotProfile,
    *,
    policy: str = "pi05",
    checkpoint: str = "",
    model: str = "tiny",
    tokenizer: str = "",
    num_steps: int = 10,
    seed: int = 0,
    options: InferenceOptions = ALL_ON,
    dtype: Dtype | None = None,
) -> Policy:
    """The policy that settings ask for.

    Args:
        profile: the robot.
        policy: ``pi05``, or ``module:function`` of Python code that takes the profile and returns a policy.
        checkpoint: folder; empty takes random parameters.
        model: configuration of a model without a checkpoint.
        tokenizer: path of PaliGemma's tokenizer.
        num_steps: denoising steps.
        seed: of random parameters and of noise.
        options: what is computed ahead or left out.
        dtype: to compute and to keep parameters in; None takes what the checkpoint's configuration says.

    Raises:
        ValueError: something is unknown or does not fit (also CheckpointError, TokenizerError, ModelConfigError).
    """
    if policy != "pi05":
        module, _, function = policy.partition(":")
        try:
            return getattr(importlib.import_module(module), function)(profile)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"policy {policy!r}: expected pi05 or module:function of importable code: {error}"
            ) from error
    if options.compilation_cache:
        use_compilation_cache()
    if checkpoint:
        folder = Path(checkpoint)
        loaded = load_checkpoint(folder, dtype=inference_dtype(read_info(folder).model, dtype))
    else:
        loaded = untrained(named_config(model), profile.name, seed)
    path = Path(tokenizer) if tokenizer else None
    return Pi05Policy(
        loaded, profile, tokenizer_path=path, num_steps=num_steps, seed=seed, options=options, dtype=dtype
    )
