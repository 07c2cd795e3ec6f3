"""The model of ``models/tiny_demo``: how fast a GPU, or this machine without one, runs and trains a small model."""

from __future__ import annotations

from training.recipes.registry import named_recipe

from .context import Context
from .fitting import largest_batch
from .inference import WITH, WITHOUT, Case, Inference
from .training import measure_fitting

TOKENS = 20


def main(context: Context) -> None:
    """One inference with three cameras; a step of its recipe."""
    recipe = named_recipe("tiny_demo")
    Inference(context, recipe.model).measure([Case(3, TOKENS, 1, (WITH, WITHOUT))])
    fitting, plan = largest_batch(recipe, None)
    context.attempt(recipe.name, lambda: measure_fitting(context, fitting, plan))
