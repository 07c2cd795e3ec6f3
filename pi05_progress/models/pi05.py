"""Pi0.5: pictures and a prompt become a prefix, the action expert turns noise into actions while it attends to it.

The progress head reads the trunk's output of the very pass that fills the key-value cache (inference) or computes the
action loss (training). Formulas: openpi's model; names of parameters and their shapes are openpi's, too.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ..observation import IMAGE_KEYS
from .augmentation import OPENPI, AugmentationConfig, augment, cameras_left
from .config import ModelConfigError, Pi05Config
from .flow import drawn_times, time_embedding, time_steps
from .gemma import Gemma, Modulation
from .images import resize_with_pad, to_unit_range
from .layers import Linear, repeated
from .observation import Observation, check_actions, check_observation, check_time
from .passes import Drawn, Losses, Prefix, PrefixPass, Sample
from .points import PointTower
from .positions import PositionHead, position_loss, to_units
from .progress import Belief, ProgressHead, pool
from .siglip import Siglip


def without_cameras(model: Pi05, rng: Array, observation: Observation, config: AugmentationConfig) -> Observation:
    """The observation with cameras dropped at random: black, and masked as a missing one is, or there and covered."""
    drop_rng, cover_rng = jax.random.split(rng)
    images, tokens, masks = observation.images, observation.image_tokens, observation.image_masks
    left = cameras_left(drop_rng, {key: masks[key] for key in tokens or images}, config.camera_dropout)
    covered = jax.random.bernoulli(cover_rng, config.covered_share, (len(left), observation.state.shape[0]))
    seen = {key: masks[key] & (left[key] | under) for key, under in zip(left, covered, strict=True)}
    images = {key: jnp.where(left[key][:, None, None, None], image, -1.0) for key, image in images.items()}
    if tokens is not None:
        nothing = {key: jnp.full((1, *model.config.view(key).size, 3), -1.0) for key in tokens}
        black = model.image_tokens(dataclasses.replace(observation, images=nothing, image_tokens=None))
        tokens = {
            key: jnp.where(left[key][:, None, None], of, black[key].astype(of.dtype)) for key, of in tokens.items()
        }
    return dataclasses.replace(observation, images=images, image_tokens=tokens, image_masks={**masks, **seen})


def attention_mask(valid: Bool[Array, "b t"], starts_block: Bool[Array, " t"]) -> Bool[Array, "b t t"]:
    """Valid tokens attend to valid tokens of their own block and of those before it."""
    block = jnp.cumsum(starts_block)
    return (block[None, :] <= block[:, None])[None] & valid[:, None, :] & valid[:, :, None]


class PaliGemma(nnx.Module):
    """Vision tower and language model under openpi's names."""

    def __init__(self, config: Pi05Config, rngs: nnx.Rngs) -> None:
        dtype = jnp.dtype(config.compute_dtype)
        width = config.paligemma.width
        if config.vision == "points":
            self.img = PointTower(config.points, width, dtype, rngs)
        else:
            self.img = Siglip(config.siglip, config.tokens_per_image, width, dtype, config.remat, rngs)
        self.llm = Gemma((config.paligemma, config.expert), config.vocabulary, dtype, config.remat, rngs)


class Pi05(nnx.Module):
    """The model. Its parameters are float32 unless they were cast; it computes in ``config.compute_dtype``."""

    def __init__(self, config: Pi05Config, rngs: nnx.Rngs) -> None:
        width = config.expert.width
        self.PaliGemma = PaliGemma(config, rngs)
        self.action_in_proj = Linear(config.action_dim, width, rngs=rngs)
        self.time_mlp_in = Linear(width, width, rngs=rngs)
        self.time_mlp_out = Linear(width, width, rngs=rngs)
        self.action_out_proj = Linear(width, config.action_dim, rngs=rngs)
        if config.progress.kind != "none":
            self.progress_head = ProgressHead(config.progress, config.paligemma.width, rngs)
        if config.state_token:  # bfloat16 would leave three digits of a joint's position
            self.state_proj = Linear(config.proprioception_size, config.paligemma.width, dtype=jnp.float32, rngs=rngs)
        if config.positions:
            self.position_head = PositionHead(config, rngs)
        self.config = config

    @property
    def has_progress(self) -> bool:
        """Whether there is a progress head."""
        return self.config.progress.kind != "none"

    # --- prefix ---

    def prepare_images(self, observation: Observation) -> dict[str, Float[Array, "b h w 3"]]:
        """Pictures of the cameras that are there, float32 in [-1, 1] at the model's size; resized after scaling.

        What is cut out of a picture has been cut out before (``units.transforms.seen``).
        """
        images, view = observation.images, self.config.view
        return {k: resize_with_pad(to_unit_range(images[k]), *view(k).size) for k in IMAGE_KEYS if k in images}

    def image_tokens(self, observation: Observation) -> dict[str, Float[Array, "b n w"]]:
        """The vision tower's output for the cameras that the observation has pictures of.

        An observation with these instead of pictures (``Observation.image_tokens``) gives the same numbers.
        """
        height, width = self.config.image_size
        prepared = self.prepare_images(observation)
        if not prepared:
            return {}
        if self.config.vision == "points":
            return self.PaliGemma.img(prepared)
        keys, images = list(prepared), list(prepared.values())
        # One pass for all cameras: the tower's weights are read once. Next to the batch axis, which may be sharded.
        tokens = self.PaliGemma.img(jnp.stack(images, axis=1).reshape(-1, height, width, 3))
        tokens = tokens.reshape(-1, len(keys), *tokens.shape[1:])
        return {key: tokens[:, i] for i, key in enumerate(keys)}

    def embed_prefix(self, observation: Observation) -> Prefix:
        """Tokens of all cameras that are there, of the prompt, and in a model that has them of predicted positions, and
        of the state at the end.

        A camera that the observation leaves out is not encoded; the result for the other tokens is that of a camera
        that is there but masked.
        """
        given, dtype = observation.image_tokens, jnp.dtype(self.config.compute_dtype)
        images = self.image_tokens(observation) if given is None else {k: given[k] for k in IMAGE_KEYS if k in given}
        prompt = self.PaliGemma.llm.embedder(observation.tokenized_prompt)
        tokens = [*(of.astype(dtype) for of in images.values()), prompt.astype(dtype)]
        masks = [jnp.repeat(observation.image_masks[k][:, None], t.shape[1], axis=1) for k, t in images.items()]
        masks.append(observation.tokenized_prompt_mask)
        positions, numbers = None, observation.proprioception
        if self.config.hands:
            joints, hands = jnp.split(numbers, [self.config.action_dim], axis=-1)
            hands = hands.reshape(*hands.shape[:-1], self.config.hands, 3)
            numbers = jnp.concatenate([joints, to_units(hands, self.config).reshape(len(hands), -1)], axis=-1)
        if self.config.positions:
            positions = self.position_head(images, observation.image_masks, numbers)
            hands = hands if self.config.hands else None
            tokens.append(self.position_head.embed(positions, hands).astype(dtype))
            masks.append(jnp.ones((prompt.shape[0], 1), bool))
        if self.config.state_token:
            tokens.append(self.state_proj(numbers)[:, None].astype(dtype))
            masks.append(jnp.ones((prompt.shape[0], 1), bool))
        return Prefix(jnp.concatenate(tokens, axis=1), jnp.concatenate(masks, axis=1), positions)

    def prefix_pass(self, observation: Observation, embedded: Prefix | None = None) -> PrefixPass:
        """The trunk's output for the prefix alone, and its keys and values; ``embedded`` if that was done already."""
        tokens, mask, _ = self.embed_prefix(observation) if embedded is None else embedded
        positions = jnp.cumsum(mask, axis=1) - 1
        attend = attention_mask(mask, jnp.zeros(mask.shape[1], bool))
        out, _, cache = self.PaliGemma.llm(tokens, None, positions, attend)
        return PrefixPass(out, mask, cache)

    # --- action expert ---

    def condition(self, time: Float[Array, " b"]) -> Float[Array, "b e"]:
        """What the action expert is told about the time of the flow."""
        hidden = jax.nn.swish(self.time_mlp_in(time_embedding(time, self.config.expert.width)))
        return jax.nn.swish(self.time_mlp_out(hidden))

    def modulation(self, time: Float[Array, " b"]) -> Modulation:
        """All that depends on the time alone."""
        return self.PaliGemma.llm.modulation(self.condition(time))

    def suffix_block(self) -> Bool[Array, " a"]:
        """Where attention blocks start among the action tokens: at the first."""
        return jnp.arange(self.config.action_horizon) == 0

    def velocity(self, x_t: Float[Array, "b a d"], modulation: Modulation, prefix: PrefixPass) -> Float[Array, "b a d"]:
        """The flow's velocity at noisy actions, given the prefix's cache."""
        return self.action_out_proj(self.cached_pass(x_t, modulation, prefix))

    def cached_pass(
        self, x_t: Float[Array, "b a d"], modulation: Modulation, prefix: PrefixPass
    ) -> Float[Array, "b a e"]:
        """The action expert's output at noisy actions, given the prefix's cache.

        There may be several rows of actions per row of the prefix, one after the other: they share its cache.
        """
        b, a, _ = x_t.shape
        mask = repeated(prefix.mask, b)
        own = attention_mask(jnp.ones((b, a), bool), self.suffix_block())
        to_prefix = jnp.broadcast_to(mask[:, None], (b, a, mask.shape[1]))
        positions = mask.sum(axis=1)[:, None] + jnp.arange(a)[None]
        attend = jnp.concatenate([to_prefix, own], axis=2)
        tokens = self.action_in_proj(x_t)
        _, out, _ = self.PaliGemma.llm(None, tokens, positions, attend, modulation, prefix.cache)
        return out

    def joint_pass(
        self,
        observation: Observation,
        x_t: Float[Array, "b a d"],
        time: Float[Array, " b"],
        embedded: Prefix | None = None,
    ) -> tuple[Float[Array, "b p w"], Bool[Array, "b p"], Float[Array, "b a e"]]:
        """Prefix and actions in one pass: the trunk's output, its mask, and the action expert's output."""
        tokens, mask, _ = self.embed_prefix(observation) if embedded is None else embedded
        b, p = mask.shape
        a = x_t.shape[1]
        valid = jnp.concatenate([mask, jnp.ones((b, a), bool)], axis=1)
        starts = jnp.concatenate([jnp.zeros(p, bool), self.suffix_block()])
        positions = jnp.cumsum(valid, axis=1) - 1
        suffix = self.action_in_proj(x_t)
        attend = attention_mask(valid, starts)
        out, actions, _ = self.PaliGemma.llm(tokens, suffix, positions, attend, self.modulation(time))
        return out, mask, actions

    # --- what callers use ---

    def compute_loss_with_progress(
        self, rng: Array, observation: Observation, actions: Float[Array, "b a d"], **draws: Array | bool
    ) -> Losses:
        """Both losses from one forward pass; arguments and errors are those of ``draw``."""
        observation, noise, time = self.draw(rng, observation, actions, **draws)
        return self.losses(observation, actions, noise, time)

    def draw(
        self,
        rng: Array,
        observation: Observation,
        actions: Float[Array, "b a d"],
        *,
        noise: Float[Array, "b a d"] | None = None,
        time: Float[Array, " b"] | None = None,
        train: bool = False,
        augmentation: AugmentationConfig = OPENPI,
        flow_samples: int = 1,
    ) -> Drawn:
        """What is random in the losses of a batch.

        Args:
            rng: key; its three splits draw augmentation, noise and time, as openpi's do.
            observation: with or without progress labels.
            actions: normalised, padded to the model's width.
            noise: instead of drawing it.
            time: instead of drawing it; in (0, 1], 1 is noise.
            train: whether pictures are augmented, and cameras dropped.
            augmentation: how, then.
            flow_samples: noises and times per sample; the first of several is what one alone would be.

        Raises:
            ObservationError: the observation, the actions or the draws do not fit the configuration.
        """
        batch = observation.tokenized_prompt.shape[0]
        check_observation(self.config, observation)
        check_actions(self.config, "actions", actions, batch)
        augment_rng, noise_rng, time_rng = jax.random.split(rng, 3)
        if train:
            images = augment(augment_rng, self.prepare_images(observation), augmentation)
            observation = dataclasses.replace(observation, images=images)
        if train and augmentation.camera_dropout:
            # The three splits above are numbers 0 to 2 of the same key.
            observation = without_cameras(self, jax.random.fold_in(rng, 3), observation, augmentation)
        noise = jax.random.normal(noise_rng, actions.shape) if noise is None else noise
        time = drawn_times(time_rng, (batch,)) if time is None else time
        check_actions(self.config, "noise", noise, batch)
        check_time(time, batch)
        if flow_samples > 1:
            more = (batch, flow_samples - 1)
            noise_rng, time_rng = (jax.random.fold_in(key, 1) for key in (noise_rng, time_rng))
            others = jax.random.normal(noise_rng, (*more, *actions.shape[1:])), drawn_times(time_rng, more)
            noise, time = (jnp.concatenate([x[:, None], y], 1) for x, y in zip((noise, time), others, strict=True))
        return Drawn(observation, noise, time)

    def losses(
        self,
        observation: Observation,
        actions: Float[Array, "b a d"],
        noise: Float[Array, "b *k a d"],
        time: Float[Array, "b ..."],
        action_size: int | None = None,
    ) -> Losses:
        """All losses from one forward pass, at what was ``draw``n; pictures are taken as they are.

        With several draws per sample the trunk sees the prefix once, the action expert runs for each of them, and the
        action loss is their mean (arXiv 2505.09430). Only ``action_size`` of an action's numbers count; None counts
        all, padding included, as openpi does.
        """
        embedded = self.embed_prefix(observation)
        if time.ndim == 1:
            t = time[:, None, None]
            out, mask, expert = self.joint_pass(observation, t * noise + (1 - t) * actions, time, embedded)
            action = self._action_loss(expert, noise - actions, action_size)
        else:
            target, t = actions[:, None], time[..., None, None]
            out, mask, _ = prefix = self.prefix_pass(observation, embedded)
            x_t = (t * noise + (1 - t) * target).reshape(-1, *actions.shape[1:])
            expert = self.cached_pass(x_t, self.modulation(time.reshape(-1)), prefix).reshape(*noise.shape[:-1], -1)
            action = self._action_loss(expert, noise - target, action_size).mean(axis=1)
        losses = Losses(action, positions=embedded.positions)
        if losses.positions is not None and observation.positions is not None:
            position = position_loss(losses.positions, observation.positions, observation.positions_mask)
            losses = losses._replace(position=position)
        if not self.has_progress:
            return losses
        logits = self.progress_head.logits(out, mask)
        losses = losses._replace(belief=self.progress_head.belief(logits))
        if observation.progress is None:
            return losses
        labelled = observation.progress_mask
        # A label that does not count may be anything, even NaN, which would spoil the gradient behind the second where.
        target = jnp.where(labelled, observation.progress, 0.0)
        loss = self.progress_head.loss(logits, target)
        return losses._replace(progress=jnp.where(labelled, loss, 0.0), progress_mask=labelled)

    def _action_loss(
        self, expert: Float[Array, "*b a e"], wanted: Float[Array, "*b a d"], action_size: int | None
    ) -> Float[Array, "*b a"]:
        """Squared error of the velocity that the action expert's output stands for."""
        return jnp.square(self.action_out_proj(expert) - wanted)[..., :action_size].mean(axis=-1)

    def belief(self, prefix: PrefixPass) -> Belief | None:
        """What the head reads in a prefix pass; None without a head."""
        if not self.has_progress:
            return None
        belief = self.progress_head.belief(self.progress_head.logits(prefix.out, prefix.mask))
        return belief._replace(features=pool(prefix.out, prefix.mask))

    def estimate_progress(self, observation: Observation) -> Belief:
        """Progress from the prefix alone, without sampling actions; a ``ModelConfigError`` without a progress head, an
        ``ObservationError`` where the observation does not fit the configuration."""
        if not self.has_progress:
            raise ModelConfigError("this model has no progress head; its configuration's progress.kind is 'none'")
        check_observation(self.config, observation)
        return self.belief(self.prefix_pass(observation))

    def step_modulations(self, num_steps: int) -> Modulation:
        """Modulations of all steps of the sampler, stacked on a leading axis, for a batch of one."""
        return jax.vmap(lambda time: self.modulation(time[None]))(jnp.asarray(time_steps(num_steps)))

    def denoise(
        self,
        prefix: PrefixPass,
        noise: Float[Array, "b a d"],
        num_steps: int,
        modulations: Modulation | None = None,
    ) -> Float[Array, "b a d"]:
        """Actions from noise, by Euler steps; each computes its modulation unless those of all steps are given."""
        times = jnp.asarray(time_steps(num_steps))

        def step(x_t: Array, at: Array | Modulation) -> tuple[Array, None]:
            return self.denoise_step(prefix, x_t, at, num_steps), None

        actions, _ = jax.lax.scan(step, noise, times if modulations is None else modulations)
        return actions

    def denoise_step(
        self, prefix: PrefixPass, x_t: Float[Array, "b a d"], at: Float[Array, ""] | Modulation, num_steps: int
    ) -> Float[Array, "b a d"]:
        """One of ``num_steps`` Euler steps, at a time or with the modulation that belongs to it."""
        modulation = at if isinstance(at, Modulation) else self.modulation(jnp.broadcast_to(at, x_t.shape[:1]))
        return (x_t - 1.0 / num_steps * self.velocity(x_t, modulation, prefix)).astype(x_t.dtype)

    def sample(
        self,
        observation: Observation,
        *,
        rng: Array | None = None,
        noise: Float[Array, "b a d"] | None = None,
        num_steps: int = 10,
        modulations: Modulation | None = None,
    ) -> Sample:
        """Actions and progress from one prefix pass; either a key or the noise is needed.

        Raises:
            ObservationError: the observation or the noise does not fit the configuration.
            ValueError: neither a key nor noise was given.
        """
        check_observation(self.config, observation)
        b = observation.tokenized_prompt.shape[0]
        if noise is None:
            if rng is None:
                raise ValueError("sample needs a key (rng) to draw noise with, or the noise itself")
            noise = jax.random.normal(rng, (b, self.config.action_horizon, self.config.action_dim))
        check_actions(self.config, "noise", noise, b)
        prefix = self.prefix_pass(observation)
        return Sample(self.denoise(prefix, noise, num_steps, modulations), self.belief(prefix))
