"""Parameters of a model by openpi's paths, parts joined by "/": reading them out, putting them in, casting."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..errors import UserError
from .config import Pi05Config
from .pi05 import Pi05

HEAD = "progress_head/"
# Parts that a checkpoint to start from may lack, each as a whole; they start at random then.
ADDED = (HEAD, "state_proj/", "position_head/")
SHOWN = 12  # of a long list of paths in an error

Shaped = np.ndarray | Array | jax.ShapeDtypeStruct


class ParameterMismatchError(UserError):
    """Parameters do not fit the model; the message lists what is missing, extra or of another shape."""


def parameter_paths(model: nnx.Module) -> dict[str, Array | jax.ShapeDtypeStruct]:
    """Parameters (or their shapes, for a model that is only a shape) by path."""
    state = nnx.state(model, nnx.Param)
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def abstract_model(config: Pi05Config) -> Pi05:
    """A model that is only shapes."""
    return nnx.eval_shape(lambda: Pi05(config, nnx.Rngs(0)))


@functools.lru_cache(maxsize=8)
def parameter_shapes(config: Pi05Config) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of a model's parameters by path; not to be changed."""
    return parameter_paths(abstract_model(config))


def load_parameters(model: nnx.Module, parameters: Mapping[str, np.ndarray | Array]) -> None:
    """Put parameters into a model, or its shapes, in the dtype they come in; raises as ``check_parameters``."""
    check_parameters(parameter_paths(model), parameters)
    state = nnx.state(model, nnx.Param)
    for path, leaf in nnx.to_flat_state(state):
        leaf.set_value(jnp.asarray(parameters["/".join(map(str, path))]))
    nnx.update(model, state)


def check_parameters(wanted: Mapping[str, Shaped], given: Mapping[str, Shaped]) -> None:
    """Raise a ``ParameterMismatchError`` if names or shapes differ; nothing is read."""
    shapes = [
        f"{path}: {tuple(given[path].shape)} instead of {tuple(value.shape)}"
        for path, value in wanted.items()
        if path in given and tuple(given[path].shape) != tuple(value.shape)
    ]
    if problems := differences(wanted, given, shapes):
        raise ParameterMismatchError(problems)


def differences(wanted: Iterable[str], given: Iterable[str], shapes: Sequence[str] = ()) -> str:
    """What is wrong with names of parameters, and what ``shapes`` says of others; empty if nothing is."""
    wanted, given = dict.fromkeys(wanted), dict.fromkeys(given)
    missing, extra = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    problems = {"missing": missing, "not known": extra, "of another shape": shapes}
    return "; ".join(f"{what}: {listed(found)}" for what, found in problems.items() if found)


def listed(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"


def cast(model: nnx.Module, dtype: jnp.dtype) -> None:
    """Store all parameters in another dtype, as openpi does for inference; the progress head stays float32."""
    state = nnx.state(model, nnx.Param)
    for path, leaf in nnx.to_flat_state(state):
        if not "/".join(map(str, path)).startswith(HEAD):
            leaf.set_value(leaf.get_value().astype(dtype))
    nnx.update(model, state)
