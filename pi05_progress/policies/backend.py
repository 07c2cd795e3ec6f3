"""Which program computes a checkpoint: JAX this package's, PyTorch LeRobot's. Neither is imported until it must be."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Literal, get_args

from ..errors import UserError
from ..files.json_file import read_json
from ..policy import BackendChoice

Backend = Literal["jax", "torch"]
NEEDED = ("torch", "transformers", "lerobot.policies.pi05.modeling_pi05")
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")
CONVERT = "python -m pi05_progress.convert_checkpoint"


def choose_backend(checkpoint: str, choice: str = "auto") -> Backend:
    """The backend for a checkpoint, by what its folder contains (empty: random parameters, which are JAX's); a
    ``UserError`` if the choice is unknown, or does not read the folder. ``auto`` is whichever reads it.

    A folder with a model in safetensors and LeRobot's ``config.json`` of a ``pi05`` policy is PyTorch's. Everything
    else is JAX's, also what is no checkpoint at all: reading it says what is wrong.
    """
    if choice not in get_args(BackendChoice):
        raise UserError(f"backend {choice!r} is unknown; known: {', '.join(get_args(BackendChoice))}")
    if not checkpoint:
        if choice == "torch":
            raise UserError(f"backend torch needs a checkpoint of LeRobot's; {CONVERT} export --to lerobot makes one")
        return "jax"
    folder = Path(checkpoint)
    in_torch = any((folder / name).is_file() for name in MODEL_FILES)
    if in_torch and _policy_type(folder / "config.json") == "pi05":
        if choice == "jax":
            raise UserError(
                f"{folder} is a checkpoint of LeRobot's, which backend jax does not read: import it with {CONVERT} "
                "import, or choose backend torch or auto"
            )
        return "torch"
    if in_torch:
        raise UserError(
            f"{folder} has a model in PyTorch, but no config.json of LeRobot with type pi05: import it with {CONVERT} "
            "import"
        )
    if choice == "torch":
        raise UserError(
            f"{folder} is no checkpoint of LeRobot's (model.safetensors, config.json of type pi05), which is what "
            f"backend torch reads: export it with {CONVERT} export --to lerobot, or choose backend jax or auto"
        )
    return "jax"


def _policy_type(config: Path) -> object:
    try:
        settings = read_json(config)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{config}: not a JSON file: {error}") from error
    return settings.get("type") if isinstance(settings, dict) else None


def require_torch() -> None:
    """Import what backend torch needs; raise a ``UserError`` that names the extra where something is not installed."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"backend torch needs PyTorch and LeRobot's PI05, and {name.partition('.')[0]} cannot be imported "
                f"({error}): install the extra torch (pip install 'pi05_progress[torch]', in a checkout "
                "pip install -e .[torch]), or import the checkpoint for backend jax with "
                f"{CONVERT} import"
            ) from error


def has_accelerator(backend: Backend) -> bool:
    """Whether a backend would compute on something else than the CPU; a ``UserError`` if it is not installed."""
    if backend == "jax":
        return importlib.import_module("jax").default_backend() != "cpu"
    require_torch()
    return importlib.import_module("torch").cuda.is_available()
