"""A checkpoint folder: parameters, statistics and a description of what they belong to, complete or not there at all.

params/                          Orbax, openpi's tree names
params.sha256                    digests of its files
temporal/, temporal.sha256       the temporal head, see ``estimate/temporal.py``; only where one was trained
assets/<asset id>/norm_stats.json
config.json                      model, robot profile, tokenizer, data and code version; written last

``saver.py`` writes it; other formats are imported and exported by ``convert_checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flax import nnx

from ..errors import UserError
from ..estimate.temporal import TemporalHead
from ..models.config import Pi05Config
from ..models.pi05 import Pi05
from ..observation import UNTRAINED
from ..units.normalize import NormStats
from .checkpoint_error import CheckpointError
from .description import ASSETS, CONFIG, NORM_STATS, PARAMS, CheckpointInfo, read_info, read_stats
from .digests import check_digests
from .orbax_files import open_orbax
from .parameter_source import Shardings, load_model

TEMPORAL, HEAD_FILE = "temporal", "head.safetensors"
MARKERS = (CONFIG, PARAMS)  # what has them is a checkpoint, which may be overwritten

__all__ = ["Checkpoint", "CheckpointError", "CheckpointInfo", "load_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it needs to be used; ``stats`` may be empty, then nothing is normalised."""

    info: CheckpointInfo
    model: Pi05
    stats: Mapping[str, NormStats]
    temporal_head: bytes = b""  # empty if there is none


def load_checkpoint(
    folder: Path, *, dtype: str | None = None, shardings: Shardings | None = None, need_stats: bool = True
) -> Checkpoint:
    """Read a checkpoint folder, leaf by leaf, straight into the dtype and onto the devices asked for.

    Args:
        dtype: ``bfloat16`` or ``float32``; the progress head keeps what is stored. None keeps everything so.
        shardings: from a leaf's path, shape and dtype to where it lies; each process reads only its pieces. None puts
            everything on the default device.
        need_stats: whether a trained model without its statistics is an error: on a robot its actions would be wrong.

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
    model = load_model(info.model, open_orbax(folder / PARAMS), dtype=dtype, shardings=shardings)
    return Checkpoint(info, model, stats, read_temporal(folder))


def read_temporal(folder: Path) -> bytes:
    """A checkpoint's temporal head, empty if it has none; a ``CheckpointError`` if it is damaged or cannot be read."""
    part = Path(folder) / TEMPORAL
    if not part.is_dir():
        return b""
    check_digests(part)
    try:
        data = (part / HEAD_FILE).read_bytes()
        TemporalHead(data)
    except (OSError, UserError) as error:
        raise CheckpointError(f"{part / HEAD_FILE}: {error}; remove {part} to do without") from error
    return data


def untrained(config: Pi05Config, robot: str, seed: int = 0) -> Checkpoint:
    """Random parameters: something to run before anything was learnt. Its estimates mean nothing and are marked so."""
    return Checkpoint(CheckpointInfo(config, robot=robot), Pi05(config, nnx.Rngs(seed)), {})
