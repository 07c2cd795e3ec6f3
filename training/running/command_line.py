"""The command line of ``training.train``: ``--config=RECIPE``, then its fields as flags; and what ``--plan`` prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

import tyro

from pi05_progress.errors import UsageError, UserError
from pi05_progress.models.lora import count_parameters
from pi05_progress.models.parameters import abstract_model

from ..engine.memory import GIB, MemoryPlan, plan_memory, table
from ..recipes.config import TrainConfig
from ..recipes.registry import named_recipe, recipes

PROGRAM = "python -m training.train"
FLAG = "--config"


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The configuration that a command line asks for; flags may be spelt with ``-`` or with ``_``.

    Ends the program where a flag is wrong (2), or help was asked for (0); a ``UsageError`` is about the recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(FLAG, dest="names", action="append", default=[])
    try:
        given, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{FLAG} needs the name of a recipe.\n\n{overview()}") from error
    if not (names := given.names):
        if {"-h", "--help"} & set(rest):
            print(overview())
            sys.exit(0)
        raise UsageError(f"{FLAG}=RECIPE is missing.\n\n{overview()}")
    if len(names) > 1:
        raise UsageError(f"{FLAG} is given {len(names)} times: {', '.join(names)}; give one recipe")
    recipe = named_recipe(names[0])
    what = recipes()[names[0]][0]
    return tyro.cli(TrainConfig, default=recipe, args=rest, prog=f"{PROGRAM} {FLAG}={names[0]}", description=what)


def overview() -> str:
    """What there is to choose from, for a terminal."""
    known = recipes()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {what}" for name, (what, _) in known.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} {FLAG}=RECIPE --exp_name=NAME --data.repo_id=FOLDER [--FIELD=VALUE ...]",
            "",
            "recipes:",
            *lines,
            "",
            f"All fields of a recipe and their values: {PROGRAM} {FLAG}=RECIPE --help",
            "",
            "examples:",
            f"  {PROGRAM} {FLAG}=pi05_teleavatar --exp_name=first --data.repo_id=/data/stack --checkpoint=/data/base",
            f"  {PROGRAM} {FLAG}=pi05_teleavatar --plan",
            f"  {PROGRAM} {FLAG}=tiny_demo --exp_name=demo --data.repo_id=/data/stack --resume",
        ]
    )


def meshes(numbers: Iterable[int], fsdp_devices: int) -> list[tuple[int, int]]:
    """Numbers of devices, and of those that share one copy of the parameters: one, ``fsdp_devices``, all."""
    found = []
    for devices in numbers:
        found += [(devices, fsdp) for fsdp in sorted({1, fsdp_devices, devices}) if devices % fsdp == 0]
    return found


def plan(config: TrainConfig) -> str:
    """A table for a terminal; refused if the batch cannot be shared out on any of the meshes."""
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
                freeze=config.freeze,
                flow_samples=config.loss.flow_samples,
            )
        except UserError as error:
            refused.append(f"{devices} x {fsdp}: {error}")
    if not plans:
        raise UserError("; ".join(refused))
    counts = count_parameters(abstract_model(config.model), config.model, config.trained, config.freeze)
    head = (
        f"{config.name}: {counts.total:,} parameters, {counts.trained:,} trained; batch {config.batch_size} in "
        f"{config.optimizer.accumulation_steps} pieces. Rows: devices x --mesh.fsdp_devices"
    )
    return "\n".join([head, "", table(plans, round(config.plan_gib * GIB)), *refused])
