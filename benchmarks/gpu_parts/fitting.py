"""Recipes cut down to what there is: to the small model, or to the largest batch for which the memory does."""

from __future__ import annotations

import dataclasses

from pi05_progress.models.config import LoraConfig, tiny
from training.engine.memory import MemoryPlan, plan_memory
from training.recipes.config import TrainConfig

SMALL_BATCH, SMALL_PIECES, SMALL_PROMPT = 4, 2, 48


def small(recipe: TrainConfig) -> TrainConfig:
    """The same recipe for ``tiny``, with adapters where the recipe has them."""
    model = dataclasses.replace(tiny(), discrete_state=False, max_token_len=SMALL_PROMPT)
    if recipe.trained == "adapters":
        experts = (model.paligemma.with_lora(LoraConfig(4, 4.0)), model.expert.with_lora(LoraConfig(4, 4.0)))
        model = dataclasses.replace(model, paligemma=experts[0], expert=experts[1])
    pieces = min(recipe.optimizer.accumulation_steps, SMALL_PIECES)
    optimizer = dataclasses.replace(recipe.optimizer, accumulation_steps=pieces)
    return dataclasses.replace(recipe, model=model, optimizer=optimizer, batch_size=SMALL_BATCH)


def largest_batch(recipe: TrainConfig, limit: int | None) -> tuple[TrainConfig | None, MemoryPlan]:
    """The recipe with its own batch or the largest half, quarter, ... of it that fits; None if one sample does not.

    Pieces stay as large as the recipe's, so that less memory is needed for nothing but the batch itself.
    """
    plan = planned(recipe)
    while limit is not None and plan.total > limit:
        if recipe.batch_size == 1:
            return None, plan
        recipe, plan = halved(recipe)
    return recipe, plan


def halved(recipe: TrainConfig) -> tuple[TrainConfig, MemoryPlan]:
    """The recipe with half its batch, in pieces as large as before where there are two of them."""
    pieces = max(1, recipe.optimizer.accumulation_steps // 2)
    optimizer = dataclasses.replace(recipe.optimizer, accumulation_steps=pieces)
    recipe = dataclasses.replace(recipe, batch_size=recipe.batch_size // 2, optimizer=optimizer)
    return recipe, planned(recipe)


def planned(recipe: TrainConfig) -> MemoryPlan:
    """What it takes on one device."""
    return plan_memory(
        recipe.model, devices=1, fsdp_devices=1, batch_size=recipe.batch_size, optimizer=recipe.optimizer,
        trained=recipe.trained,
    )  # fmt: skip
