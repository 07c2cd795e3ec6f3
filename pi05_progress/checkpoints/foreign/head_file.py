"""The progress head in PyTorch's layout: ``progress_head.safetensors``, beside the model that LeRobot reads.

    progress_head.hidden.weight  (hidden, trunk width)    progress_head/hidden/kernel, transposed
    progress_head.hidden.bias    (hidden,)                progress_head/hidden/bias
    progress_head.output.weight  (1 or bins, hidden)      progress_head/output/kernel, transposed
    progress_head.output.bias    (1 or bins,)             progress_head/output/bias

One output is a scalar head, several are the bins of a categorical one. After the prefix these are the names of
``ProgressHead`` in ``torch_policy.py``. LeRobot reads ``model.safetensors`` alone and passes this file over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ...models.config import Pi05Config
from ...models.parameters import differences
from ..checkpoint_error import CheckpointError
from .safetensors_files import TensorFile, open_safetensors, write_safetensors
from .torch_parameters import TORCH_HEAD, head_parts

HEAD_FILE = "progress_head.safetensors"
NAMES = tuple(f"{TORCH_HEAD}{layer}.{kind}" for layer in ("hidden", "output") for kind in ("weight", "bias"))


def to_torch(leaves: Mapping[str, np.ndarray], config: Pi05Config) -> dict[str, np.ndarray]:
    """A head's tensors out of leaves by openpi's paths; others are passed over, and without a head there are none."""
    return {part.key: part.to_tensor(np.asarray(leaves[p])) for p, (part,) in head_parts(config).items()}


def write_head(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write all four tensors into a folder, each in its dtype; a ``CheckpointError`` if one is missing or unknown."""
    file = folder / HEAD_FILE
    if problems := differences(NAMES, tensors):
        raise CheckpointError(f"{file}: not a progress head: {problems}")
    layout = {name: jax.ShapeDtypeStruct(tensors[name].shape, tensors[name].dtype) for name in NAMES}
    write_safetensors(file, layout, tensors.items())


def open_head(folder: Path) -> TensorFile | None:
    """The file in a folder, not read yet, None without one; a ``CheckpointError`` if it is damaged."""
    file = folder / HEAD_FILE
    if not file.exists():
        return None
    found = open_safetensors(file)
    if problems := differences(NAMES, found.tensors):
        raise CheckpointError(f"{found.where}: not a progress head: {problems}")
    shapes = {name: tuple(found.tensors[name].shape) for name in NAMES}
    hidden, output = (shapes[f"{TORCH_HEAD}{layer}.weight"] for layer in ("hidden", "output"))
    fit = len(hidden) == len(output) == 2 and output[1] == hidden[0]
    floats = all(jnp.issubdtype(found.tensors[name].dtype, jnp.floating) for name in NAMES)
    if not (fit and floats and shapes[NAMES[1]] == hidden[:1] and shapes[NAMES[3]] == output[:1]):
        told = ", ".join(f"{name} {found.tensors[name].dtype}{list(shape)}" for name, shape in shapes.items())
        raise CheckpointError(
            f"{found.where}: not a progress head: {told}; expected are floats [hidden, width], [hidden], "
            "[1 or bins, hidden], [1 or bins]"
        )
    return found
