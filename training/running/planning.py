"""``--plan``: what a run needs on each device, for several meshes, before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable

from pi05_progress.errors import UserError
from pi05_progress.models.abstract import abstract_model
from pi05_progress.models.lora import count_parameters

from ..engine.memory import GIB, MemoryPlan, plan_memory, table
from ..recipes.config import TrainConfig


def meshes(numbers: Iterable[int], fsdp_devices: int) -> list[tuple[int, int]]:
    """Numbers of devices, and of those that share one copy of the parameters: one, ``fsdp_devices``, all."""
    found = []
    for devices in numbers:
        found += [(devices, fsdp) for fsdp in sorted({1, fsdp_devices, devices}) if devices % fsdp == 0]
    return found


def plan(config: TrainConfig) -> str:
    """A table for a terminal.

    Raises:
        UserError: the batch cannot be shared out on any of the meshes.
        ModelConfigError: there is nothing of what is to be trained.
    """
    plans: dict[str, MemoryPlan] = {}
    refused: list[str] = []
    for devices, fsdp in meshes(config.plan_devices, config.mesh.fsdp_devices):
        try:
            plans[f"{devices} x {fsdp}"] = plan_memory(
                config.model,
                devices=devices,
                fsdp_devices=fsdp,
                batch_size=config.batch_size,
                optimizer=config.optimizer,
                trained=config.trained,
            )
        except UserError as error:
            refused.append(f"{devices} x {fsdp}: {error}")
    if not plans:
        raise UserError("; ".join(refused))
    counts = count_parameters(abstract_model(config.model), config.model, config.trained)
    head = (
        f"{config.name}: {counts.total:,} parameters, {counts.trained:,} trained; batch {config.batch_size} in "
        f"{config.optimizer.accumulation_steps} pieces. Rows: devices x --mesh.fsdp_devices"
    )
    return "\n".join([head, "", table(plans, round(config.plan_gib * GIB)), *refused])
