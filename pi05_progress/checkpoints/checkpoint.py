"""A checkpoint folder: parameters, statistics and a description of what they belong to, complete or not there at all.

params/                          Orbax, openpi's tree names
params.sha256                    digests of its files
assets/<asset id>/norm_stats.json
config.json                      model, robot profile, tokenizer, data and code version; written last

``saver.py`` writes it; other formats are imported and exported by ``convert_checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from ..models.abstract import abstract_model, parameter_shapes
from ..models.config import Pi05Config
from ..models.parameters import ParameterMismatchError, check_parameters, load_parameters
from ..models.pi05 import Pi05
from ..observation import UNTRAINED
from ..units.normalize import NormStats
from .description import ASSETS, CONFIG, NORM_STATS, PARAMS, CheckpointInfo, read_info, read_stats
from .orbax_files import open_orbax
from .parameter_source import CheckpointError, ParameterSource, Progress, Shardings, load_arrays

MARKERS = (CONFIG, PARAMS)  # what has them is a checkpoint, which may be overwritten

__all__ = ["Checkpoint", "CheckpointError", "CheckpointInfo", "load_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it needs to be used; ``stats`` may be empty, then nothing is normalised."""

    info: CheckpointInfo
    model: Pi05
    stats: Mapping[str, NormStats]


def load_checkpoint(
    folder: Path,
    *,
    dtype: str | None = None,
    shardings: Shardings | None = None,
    need_stats: bool = True,
    progress: Progress | None = None,
) -> Checkpoint:
    """Read a checkpoint folder, leaf by leaf, straight into the dtype and onto the devices asked for.

    Args:
        dtype: ``bfloat16`` or ``float32``; the progress head keeps what is stored. None keeps everything so.
        shardings: from a leaf's path, shape and dtype to where it lies; each process reads only its pieces. None puts
            everything on the default device.
        need_stats: whether a trained model without its statistics is an error: on a robot its actions would be wrong.
        progress: called with path and bytes of every leaf that was read.

    Raises:
        CheckpointError: missing, incomplete or damaged; what is missing, extra or of another shape is listed.
    """
    folder = Path(folder)
    info = read_info(folder)
    stats, path = read_stats(folder, info), f"{folder}: {ASSETS}/{info.asset_id}/{NORM_STATS}"
    if not stats and need_stats and info.model_id != UNTRAINED:
        raise CheckpointError(f"{path} is missing")
    bare = [key for key, of in stats.items() if of.q01 is None or of.q99 is None]
    if bare and need_stats and info.quantiles:
        raise CheckpointError(
            f"{path}: {' and '.join(bare)} without quantiles (q01, q99), by which the model normalises according to "
            f"{CONFIG}; take the file that it was trained with"
        )
    source = open_orbax(folder / PARAMS)
    model = load_model(info.model, source, dtype=dtype, shardings=shardings, progress=progress)
    return Checkpoint(info, model, stats)


def load_model(
    config: Pi05Config,
    source: ParameterSource,
    *,
    dtype: str | None = None,
    shardings: Shardings | None = None,
    progress: Progress | None = None,
) -> Pi05:
    """A model with a source's parameters.

    Raises:
        CheckpointError: they do not fit the model, or cannot be read.
    """
    model = abstract_model(config)
    check_fit(config, source)
    wanted = None if dtype is None else jnp.dtype(dtype)
    load_parameters(model, load_arrays(source, dtype=wanted, shardings=shardings, progress=progress))
    return model


def check_fit(config: Pi05Config, source: ParameterSource) -> None:
    """Raise unless a source has exactly a model's parameters; nothing is read.

    Raises:
        CheckpointError: what is missing, extra or of another shape is listed.
    """
    try:
        check_parameters(parameter_shapes(config), source.leaves)
    except ParameterMismatchError as error:
        raise CheckpointError(
            f"{source.where} does not fit the model configuration {config.name!r}: {error}"
        ) from error


def untrained(config: Pi05Config, robot: str, seed: int = 0) -> Checkpoint:
    """Random parameters: something to run before anything was learnt. Its estimates mean nothing and are marked so."""
    return Checkpoint(CheckpointInfo(config, robot=robot), Pi05(config, nnx.Rngs(seed)), {})
