"""Batches and runs of a small model for tests of the training engine."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from small_models import SMALL, random_model

from pi05_progress.checkpoints.parameter_source import ParameterSource
from pi05_progress.models.augmentation import OPENPI
from pi05_progress.models.observation import Observation
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.observation import IMAGE_KEYS
from training.engine.loss import LossConfig
from training.engine.optimizer import OptimizerConfig
from training.engine.sharding import MeshConfig, make_mesh, put_batch
from training.engine.state import start_state, with_parameters
from training.engine.step import make_train_step, training_keys
from training.loading.batch import Batch

# Steps as large as gradients (eps): else rounding in gradients that are nearly zero becomes as large as any other.
FAST = OptimizerConfig(schedule="constant", peak_learning_rate=1e-2, warmup_steps=0, eps=1e-3, ema_decay=0.9)
PLAIN = LossConfig()


@contextlib.contextmanager
def quick_compiling():
    """Nearly all the time of these tests is compiling; machine code that is not optimised takes half of it."""
    kept = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", kept)


def without_head(config):
    return config.with_progress("none")


def made_up_batch(config=SMALL, rows=8, seed=0, labels=True, length=6):
    """Brightness of the pictures is the progress, and actions follow it: both can be learnt.

    A third of the labels do not count, if there are any.
    """
    rng = np.random.default_rng(seed)
    progress = rng.uniform(0, 1, rows).astype(np.float32)
    levels = np.clip(255 * progress[:, None, None, None] + rng.normal(0, 8, (rows, *config.image_size, 3)), 0, 255)
    steps = np.linspace(0, 1, config.action_horizon, dtype=np.float32)
    actions = (2 * progress[:, None] - 1 + 0.2 * steps)[..., None] * np.linspace(1, -1, config.action_dim)
    tokens = np.broadcast_to(np.arange(3, 3 + length, dtype=np.int32), (rows, length)).copy()
    return Batch(
        observation=Observation(
            images={key: levels.astype(np.uint8) for key in IMAGE_KEYS},
            image_masks={key: np.ones(rows, bool) for key in IMAGE_KEYS},
            state=np.zeros((rows, config.action_dim), np.float32),
            tokenized_prompt=tokens,
            tokenized_prompt_mask=np.ones((rows, length), bool),
            progress=progress if labels else None,
            progress_mask=(np.arange(rows) % 3 != 1) if labels else None,
        ),
        actions=actions.astype(np.float32),
        action_is_pad=np.zeros((rows, config.action_horizon), bool),
        action_weight=np.ones(rows, np.float32),
        origin=np.zeros((rows, 3), np.int32),
    )


def changed(batch, **fields):
    """A batch with other fields; those of its observation are found, too."""
    inner = {k: fields.pop(k) for k in list(fields) if k in {f.name for f in dataclasses.fields(Observation)}}
    return dataclasses.replace(batch, observation=dataclasses.replace(batch.observation, **inner), **fields)


def source_of(model):
    """A model's parameters as a checkpoint would give them."""
    arrays = {path: np.asarray(value) for path, value in parameter_paths(model).items()}
    leaves = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in arrays.items()}

    def read_piece(path, dtype, index):
        return arrays[path][index].astype(dtype)

    return ParameterSource("small", leaves, read_piece)


@functools.cache
def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


@functools.cache
def train_step(config, optimizer, loss, augment, **options):
    """Compiled once for all tests that use the same."""
    return make_train_step(config, one_device(), optimizer, loss, augmentation=OPENPI if augment else None, **options)


@functools.cache
def losses_function(config, action_size=None):
    def losses(parameters, key, batch):
        model = with_parameters(config, parameters)
        drawn = model.draw(key, batch.observation, batch.actions)
        return model.losses(drawn.observation, batch.actions, drawn.noise, drawn.time, action_size)

    return jax.jit(losses)


class Run:
    """A run on the first device: ``run(batch)`` takes a step and gives its metrics as floats."""

    def __init__(
        self,
        config=SMALL,
        optimizer=FAST,
        loss=PLAIN,
        trained="everything",
        seed=0,
        source="random",
        augment=False,
        action_size=None,
        freeze=(),
    ):
        self.config, self.mesh = config, one_device()
        self.rng, init_rng = training_keys(seed)
        if source == "random":
            source = source_of(random_model(config))
        self.started = start_state(config, self.mesh, trained, optimizer, init_rng, source, freeze=freeze)
        self.state = self.started.state
        self.step = train_step(
            config, optimizer, loss, trained=trained, freeze=freeze, augment=augment, action_size=action_size
        )

    def __call__(self, batch):
        self.state, metrics = self.step(self.state, self.rng, put_batch(self.mesh, batch))
        return {name: float(value) for name, value in metrics.items()}

    def losses(self, batch, key=None, action_size=None):
        """Losses per sample, as the model gives them; drawn as the first step draws, or from another key."""
        key = jax.random.fold_in(self.rng, 0) if key is None else key
        parameters = {**self.state.params, **self.state.frozen}
        found = losses_function(self.config, action_size)(parameters, key, batch)
        return jax.tree.map(np.asarray, found)

    def parameters(self):
        return {path: np.asarray(value) for path, value in {**self.state.params, **self.state.frozen}.items()}


def bits(array):
    """The bytes of an array, for comparisons without tolerance."""
    return np.asarray(jnp.asarray(array)).tobytes()
