"""Finds recipes: every module of this package with a function ``recipe`` is one, under the module's name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable

from pi05_progress.errors import UsageError

from .config import TrainConfig


def recipes() -> dict[str, tuple[str, Callable[[], TrainConfig]]]:
    """Per name what the recipe is for, and the function that makes it."""
    package = __package__ or "training.recipes"
    found = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        loaded = importlib.import_module(f"{package}.{module.name}")
        if hasattr(loaded, "recipe"):
            found[module.name] = ((loaded.__doc__ or "").splitlines()[0], loaded.recipe)
    return found


def named_recipe(name: str) -> TrainConfig:
    """A recipe by name; one that is not known is refused with those that there are."""
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"--config={name}: there is no recipe {name!r}{hint} There are: {', '.join(known)}")
    return known[name][1]()
