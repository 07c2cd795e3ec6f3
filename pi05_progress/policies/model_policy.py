"""Pi0.5 as a policy: the robot's frames become the model's input, and its answers the robot's units again."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from ..checkpoints.checkpoint import Checkpoint, CheckpointError
from ..checkpoints.description import CheckpointInfo
from ..estimate.temporal import TemporalHead
from ..models.flow import next_noise
from ..models.observation import Observation, check_observation
from ..models.pi05 import Sample
from ..observation import CONFIDENCE_LEVEL, IMAGE_KEYS, ObservationError, PolicyOutput, RobotFrame
from ..policy import DEFAULT_OPTIONS, ZERO_NOISE, Policy, PolicyOptions, noise_seed
from ..robots.layout import Layout
from ..robots.profile import RobotProfile
from ..units.normalize import PROPRIOCEPTION, NormStats, NormStatsError, chunk_stats, normalize, unnormalize
from ..units.tokenizer import PromptTokenizer, clean, make_encoder
from ..units.transforms import (
    absolute_actions,
    actions_from_model,
    hands_to_model,
    middle_rows,
    pad_to,
    proprioception_to_model,
    seen,
    state_to_model,
)
from .sampler import Sampler, for_inference

log = logging.getLogger(__name__)

SampleFunction = Callable[[Observation, np.ndarray | jax.Array], Sample]  # noise (b, horizon, action dimensions)


@dataclass(frozen=True)
class Prepared:
    """A frame as the model reads it, and what is needed to bring the answer back into the robot's units."""

    observation: Observation  # a batch of one, on the host
    state: np.ndarray  # float32 (s,) what the model reads of the frame's state, in the robot's units
    preparing_ms: float  # what it took
    noise_seed: int | None = None  # see ``Policy.prepare``


class ModelPolicy(Policy):
    """A sampler of Pi0.5 with its transforms, statistics and tokenizer, whatever the sampler computes with.

    Args:
        stats: its statistics; if there are none, nothing is normalised.
        make_sampler: what answers a batch, given the noise that its actions start from; called once everything else
            has been checked.
        profile: the robot; its numbers must mean what those of the checkpoint's robot do.
        options: tokenizer, seed, most frames computed together and what is computed ahead or left out; the rest is for
            ``make_sampler`` to heed.
        temporal_head: the checkpoint's; empty if it has none.

    Attributes:
        batch_sizes: powers of two below ``max_batch``, and that.

    Raises:
        CheckpointError: the checkpoint is of another robot, or its statistics or sizes do not fit the robot's.
        UserError: the tokenizer cannot be loaded.
    """

    remembers = False  # of frames: only the noise that actions start from is another for each

    def __init__(
        self,
        info: CheckpointInfo,
        stats: Mapping[str, NormStats],
        make_sampler: Callable[[], SampleFunction],
        profile: RobotProfile,
        options: PolicyOptions = DEFAULT_OPTIONS,
        temporal_head: bytes = b"",
    ) -> None:
        self.temporal_head = temporal_head if options.temporal else b""
        self._temporal = TemporalHead(self.temporal_head) if self.temporal_head else None
        most, self._switches = options.max_batch, options.inference
        if most < 1:
            raise ValueError(f"max_batch is {most}, expected at least 1")
        self._shapes: dict[str, float] = {}  # of cameras whose pictures are taller than those the checkpoint knows
        self._turned = False  # whether the model opens a gripper by the number that closes this robot's
        if info.robot != profile.name:
            text = f"the checkpoint was made for robot {info.robot}, the profile is {profile.name}"
            same = profile.has_numbers_of(info.robot)
            if not same and not profile.has_numbers_of(info.robot, but_grippers=True):
                raise CheckpointError(text)
            self._turned = not same and RobotProfile.load(info.robot).gripper_closed != profile.gripper_closed
            known, view = RobotProfile.load(info.robot).cameras, info.model.view
            self._shapes = {
                key: view(camera.model_input).shape(known[key].shape)
                for key, camera in profile.cameras.items()
                if camera.shape < known[key].shape
            }
            how = "" if same else "; grippers are told how far to open, their positions are taken to mean the same"
            log.warning("%s: their joints and units are the same, but what their cameras see may not be%s", text, how)
        self.model_id, self.action_dt_s, self.horizon = info.model_id, info.action_dt_s, info.model.action_horizon
        self.durations_s = info.durations_s()
        self._action_stats = _checked_stats(info, stats, profile.layout)
        self.info, self._stats, self._profile, self._layout = info, stats, profile, profile.layout
        encoder = make_encoder(info.tokenizer, Path(options.tokenizer) if options.tokenizer else None)
        if encoder.vocabulary > info.model.vocabulary:
            raise CheckpointError(f"the tokenizer has {encoder.vocabulary} tokens, the model {info.model.vocabulary}")
        self._tokenize = PromptTokenizer(encoder, info.model.max_token_len, self._switches.bucketed_prompts, cut=False)
        self._noise = options.noise
        self.restart(options.seed)
        self._encoded = None if self._switches.skip_absent_cameras else IMAGE_KEYS
        self.sampler = make_sampler()
        self.batch_sizes = tuple(sorted({min(2**i, most) for i in range(most.bit_length() + 1)}))

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures that the model reads; None if it needs whole ones, of which it sees parts."""
        model, (height, width) = self.info.model, self.info.model.image_size
        narrow = any(self._profile.cameras[key].shape < width / height for key in self._shapes)  # would lose its scale
        return model.image_size if len(set(model.views.values())) == 1 and not narrow else None

    def restart(self, seed: int) -> None:
        """From here on the noise is that of a policy made with this seed, so an episode does not depend on others."""
        self._key, self._noise_seed = jax.random.key(seed), noise_seed(self._noise, seed)

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
        model = self.info.model
        cameras = {camera.model_input: key for key, camera in self._profile.cameras.items()}
        present = {
            model_key: seen(middle_rows(frame.images[key], self._shapes.get(key, 0.0)), *model.view(model_key))[None]
            for model_key, key in cameras.items()
            if key in frame.images
        }
        encoded = present if self._encoded is None else self._encoded
        state = self._normalized(state_to_model(frame.state, self._layout), "state")
        tokens, mask = self._tokenize(prompt, state if model.discrete_state else None)
        observation = Observation(
            images={key: present.get(key, np.zeros((1, *model.view(key).size, 3), np.uint8)) for key in encoded},
            image_masks={key: np.array([key in present]) for key in encoded},
            state=pad_to(state, model.action_dim)[None],
            tokenized_prompt=tokens[None],
            tokenized_prompt_mask=mask[None],
            proprioception=self._proprioception(frame.state) if model.state_token else None,
        )
        check_observation(model, observation)
        return observation

    def _normalized(self, values: np.ndarray, key: str) -> np.ndarray:
        stats = self._stats
        return normalize(values, stats[key], self.info.quantiles).astype(np.float32) if stats else values

    def _proprioception(self, vector: np.ndarray) -> np.ndarray:
        """What the state token is made of, a batch of one."""
        positions = self._normalized(proprioception_to_model(vector, self._layout), PROPRIOCEPTION)
        hands = hands_to_model(vector, self._layout) if self.info.model.hands else []
        return np.concatenate([pad_to(positions, self.info.model.action_dim), hands], dtype=np.float32)[None]

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """Actions and progress for one frame; returns when the device is done."""
        return self.infer_prepared([self.prepare(frame, prompt, self._noise_seed)])[0]

    def prepare(self, frame: RobotFrame, prompt: str, noise_seed: int | None = None) -> Prepared:
        """See ``Policy``: the model's input for a frame."""
        started = time.perf_counter()
        observation, state = self.observe(frame, prompt), state_to_model(frame.state, self._layout)
        return Prepared(observation, state, 1e3 * (time.perf_counter() - started), noise_seed)

    def infer_prepared(self, frames: Sequence[Prepared]) -> list[PolicyOutput]:
        """Answers to frames, at most ``batch_sizes[-1]`` of them, computed together where the cameras are the same.

        The noise is drawn as if they had been asked for one after the other, so the answers are those of single calls
        to float tolerance. A batch is padded to one of ``batch_sizes``: after ``warm_up`` nothing is compiled. If it
        fails, no noise has been used up.
        """
        if len({tuple(frame.observation.images) for frame in frames}) > 1:
            return [self.infer_prepared([frame])[0] for frame in frames]
        started = time.perf_counter()
        size = next(n for n in self.batch_sizes if n >= len(frames))
        observation = one_batch([f.observation for f in frames] + [frames[0].observation] * (size - len(frames)))
        model, key, noises = self.info.model, self._key, []
        shape = (1, model.action_horizon, model.action_dim)
        for frame in frames:
            if frame.noise_seed is None:
                key, noise = next_noise(key, shape)
            elif frame.noise_seed == ZERO_NOISE:
                noise = np.zeros(shape, np.float32)
            else:
                _, noise = next_noise(jax.random.key(frame.noise_seed), shape)
            noises.append(noise)
        if size > 1:
            drawn = jax.device_get(noises)
            noise = np.concatenate(drawn + [np.zeros_like(drawn[0])] * (size - len(frames)))
        prepared = time.perf_counter()
        sample = jax.device_get(self.sampler(observation, noise))  # all at once: indexing there is a program, too
        done = time.perf_counter()
        self._key = key
        outputs = [self._output(sample, row, frame.state) for row, frame in enumerate(frames)]
        outside = 1e3 * (prepared - started + time.perf_counter() - done)
        return [
            replace(output, timing={"transforms": frame.preparing_ms + outside, "model": 1e3 * (done - prepared)})
            for output, frame in zip(outputs, frames, strict=True)
        ]

    def _output(self, sample: Sample, row: int, state: np.ndarray) -> PolicyOutput:
        """One row of what the model says, in the robot's units; without timing."""
        actions = sample.actions[row]
        if self._action_stats is not None:
            actions = unnormalize(actions, self._action_stats, self.info.quantiles)
        actions = actions[..., : self._layout.action_size]
        if self.info.delta_actions:
            actions = absolute_actions(actions, state, self._layout)
        if self._turned:
            actions = actions.copy()
            for column in self._layout.grippers.values():
                actions[..., column] = 1 - actions[..., column]
        belief = sample.progress
        features = None if belief is None or belief.features is None else np.asarray(belief.features[row], np.float32)
        if features is not None and self._temporal is not None:
            features = self._temporal.project(features)
        interval = bins = None
        if belief is not None and belief.bins is not None:
            interval, bins = (float(belief.lower[row]), float(belief.upper[row])), belief.bins[row]
        return PolicyOutput(
            actions=actions_from_model(actions, self._layout),
            progress=None if belief is None else float(belief.mean[row]),
            progress_interval=interval,
            progress_belief=bins,
            confidence_level=CONFIDENCE_LEVEL,
            progress_features=features,
        )

    def warm_up(self) -> None:
        """Compute once with the profile's cameras, every length a prompt can have and every batch size.

        What is compiled is compiled then, and nothing later.
        """
        if not self._switches.warm_up:
            return
        model = self.info.model
        if self._switches.skip_absent_cameras:
            self._encoded = tuple(sorted(camera.model_input for camera in self._profile.cameras.values()))
        for size, length in itertools.product(self.batch_sizes, self._tokenize.lengths):
            images = {key: np.zeros((size, *model.view(key).size, 3), np.uint8) for key in self._encoded}
            masks = {key: np.ones(size, bool) for key in images}
            state, tokens = np.zeros((size, model.action_dim), np.float32), np.zeros((size, length), np.int32)
            observation = Observation(
                images, masks, state, tokens, np.ones((size, length), bool),
                proprioception=np.zeros((size, model.proprioception_size), np.float32) if model.state_token else None,
            )  # fmt: skip
            _, noise = next_noise(self._key, (1, model.action_horizon, model.action_dim))
            noise = noise if size == 1 else np.zeros((size, *noise.shape[1:]), np.float32)
            jax.block_until_ready(self.sampler(observation, noise))


class Pi05Policy(ModelPolicy):
    """``ModelPolicy`` with this package's model, in JAX; arguments and errors are the same."""

    def __init__(self, checkpoint: Checkpoint, profile: RobotProfile, options: PolicyOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(
            checkpoint.info,
            checkpoint.stats,
            lambda: Sampler(for_inference(checkpoint.model, options.dtype), options.num_steps, options.inference),
            profile,
            options,
            checkpoint.temporal_head,
        )


def _checked_stats(info: CheckpointInfo, stats: Mapping[str, NormStats], layout: Layout) -> NormStats | None:
    """What chunks of actions are normalised by; refuses a model or statistics that do not fit, before a frame does.

    None where there are no statistics.
    """
    model, sizes = info.model, {"state": layout.state_size, "actions": layout.action_size}
    if model.state_token:
        sizes[PROPRIOCEPTION] = len(layout.proprioception_columns)  # as many as actions
    if model.action_dim < sizes["actions"]:
        raise CheckpointError(f"the model has {model.action_dim} action dimensions, the robot needs {sizes['actions']}")
    if not stats:
        return None
    if missing := set(sizes) - set(stats):
        raise CheckpointError(f"the statistics lack {', '.join(sorted(missing))}; they have {', '.join(sorted(stats))}")
    try:
        chunks = chunk_stats(stats, info.actions_per_row, model.action_horizon)
        for key, size in sizes.items():
            of = chunks if key == "actions" else stats[key]
            if (found := of.mean.shape[-1]) < size:
                raise CheckpointError(f"the statistics of {key} have {found} numbers, the robot has {size}")
            if key != "actions":
                normalize(np.zeros(size), of, info.quantiles)
        unnormalize(np.zeros((model.action_horizon, model.action_dim)), chunks, info.quantiles)
    except NormStatsError as error:
        raise CheckpointError(f"the statistics do not fit: {error}") from error
    return chunks


def one_batch(observations: Sequence[Observation]) -> Observation:
    """Observations of the same cameras as one batch; their prompts are padded to the longest."""
    if len(observations) == 1:
        return observations[0]
    length = max(observation.tokenized_prompt.shape[1] for observation in observations)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, length - array.shape[1])))

    prompts = ("tokenized_prompt", "tokenized_prompt_mask")
    observations = [replace(o, **{name: padded(getattr(o, name)) for name in prompts}) for o in observations]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *observations)
