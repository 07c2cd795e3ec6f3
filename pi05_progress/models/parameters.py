"""Parameters of a model by openpi's paths, parts joined by "/": reading them out, putting them in, casting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..errors import UserError

HEAD = "progress_head/"
SHOWN = 12  # of a long list of paths in an error

Shaped = np.ndarray | Array | jax.ShapeDtypeStruct


class ParameterMismatchError(UserError):
    """Parameters do not fit the model; the message lists what is missing, extra or of another shape."""


def parameter_paths(model: nnx.Module) -> dict[str, Array | jax.ShapeDtypeStruct]:
    """Parameters (or their shapes, for a model that is only a shape) by path."""
    state = nnx.state(model, nnx.Param)
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def load_parameters(
    model: nnx.Module,
    parameters: Mapping[str, np.ndarray | Array],
    *,
    allow_missing: Iterable[str] = (),
    allow_extra: bool = False,
) -> list[str]:
    """Put parameters into a model, in the dtype they come in.

    Args:
        model: may be only a shape (``nnx.eval_shape``) unless something is allowed to be missing.
        parameters: by path.
        allow_missing: prefixes of paths that keep what the model has.
        allow_extra: whether paths the model does not have are passed over.

    Returns:
        The paths that were missing and kept.

    Raises:
        ParameterMismatchError: anything else is missing, extra, or of another shape.
    """
    kept = check_parameters(
        parameter_paths(model), parameters, allow_missing=tuple(allow_missing), allow_extra=allow_extra
    )
    state = nnx.state(model, nnx.Param)
    for path, leaf in nnx.to_flat_state(state):
        name = "/".join(map(str, path))
        if name in parameters:
            leaf.set_value(jnp.asarray(parameters[name]))
    nnx.update(model, state)
    return kept


def check_parameters(
    wanted: Mapping[str, Shaped],
    given: Mapping[str, Shaped],
    *,
    allow_missing: tuple[str, ...] = (),
    allow_extra: bool = False,
) -> list[str]:
    """Compare names and shapes; arguments, result and error as in ``load_parameters``, but nothing is read or put."""
    kept = [path for path in wanted if path not in given and path.startswith(allow_missing)] if allow_missing else []
    missing = [path for path in wanted if path not in given and path not in kept]
    extra = [] if allow_extra else [path for path in given if path not in wanted]
    shapes = [
        f"{path}: {tuple(given[path].shape)} instead of {tuple(value.shape)}"
        for path, value in wanted.items()
        if path in given and tuple(given[path].shape) != tuple(value.shape)
    ]
    problems = [("missing", missing), ("not known to the model", extra), ("of another shape", shapes)]
    if any(found for _, found in problems):
        raise ParameterMismatchError("; ".join(f"{what}: {_listed(found)}" for what, found in problems if found))
    return kept


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{len(items)} ({', '.join(items[:SHOWN])}{more})"


def cast(model: nnx.Module, dtype: jnp.dtype) -> None:
    """Store all parameters in another dtype, as openpi does for inference; the progress head stays float32."""
    state = nnx.state(model, nnx.Param)
    for path, leaf in nnx.to_flat_state(state):
        if not "/".join(map(str, path)).startswith(HEAD):
            leaf.set_value(leaf.get_value().astype(dtype))
    nnx.update(model, state)
