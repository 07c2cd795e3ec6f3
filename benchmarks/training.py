"""What a training step costs, and what progress adds to it.

    python benchmarks/training.py --variant mid --json training.json
    python benchmarks/training.py --variant pi05 --plan
    python benchmarks/training.py --recipe tiny_acting --tower --batch-size 64

The rows of a table run in turn, round after round, each until the device is done. A ratio is the median over the rounds
of a row's time to the first row's. GFLOP and MB are XLA's counts for the compiled loss, gradient and update, loops
counted as often as they run; drawing noise and augmentation, which are the same in all rows, are timed but not counted.
Parameters and batches are random. --tower compares a step that trains everything with steps whose vision tower is
frozen: one reads pictures, the other what the tower has made of them. --plan prints the memory that training needs on
1, 2 and 8 H100 and stops: nothing is allocated. The loader has a benchmark of its own, loading.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # training/ is not installed

from common.batches import made_up_batch
from common.costs import Cost, program_cost
from common.rounds import Row, measure, reserved_bytes

from pi05_progress.models.config import Pi05Config, named_config, pi05_lora
from pi05_progress.models.pi05 import Drawn, Sample
from training.engine.loss import Part, shares, total_loss
from training.engine.memory import GIB, H100, MemoryPlan, plan_memory, table
from training.engine.optimizer import OptimizerConfig, make_optimizer, moving_average
from training.engine.sharding import MeshConfig, make_mesh, put_batch
from training.engine.state import TrainState, start_state, with_parameters
from training.engine.step import VISION, make_train_step, training_keys
from training.recipes.config import TrainConfig
from training.recipes.registry import named_recipe

ROUNDS = {"tiny": 20, "mid": 24, "pi05": 5}
BATCH = {"tiny": 8, "mid": 2, "pi05": 8}
HORIZON = 30
OPTIMIZER = OptimizerConfig()
PLANS = ((1, 8), (2, 64), (8, 64))  # devices, all of which share the parameters, and batch


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=ROUNDS, default="mid", help="size of the model (default: %(default)s)")
    parser.add_argument("--recipe", help="take model and loss of this recipe of training.train instead of a variant's")
    parser.add_argument("--tower", action="store_true", help="only steps whose tower learns, is frozen, or is kept")
    parser.add_argument("--rounds", type=int, help=f"rounds (default: {ROUNDS})")
    parser.add_argument("--batch-size", type=int, help=f"samples of a step (default: {BATCH})")
    parser.add_argument("--plan", action="store_true", help="only what training needs in memory, at full size on H100s")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    if args.recipe:
        recipe = named_recipe(args.recipe)
    else:
        recipe = TrainConfig(args.variant, dataclasses.replace(named_config(args.variant), action_horizon=HORIZON))
    config = recipe.model
    figures: dict[str, Any] = {"variant": recipe.name}
    if args.plan:
        figures["plans"] = plans(config)
    else:
        rounds, batch = args.rounds or ROUNDS[args.variant], args.batch_size or BATCH[args.variant]
        machine = {
            "device": jax.devices()[0].device_kind,
            "cores": os.cpu_count(),
            "load_at_start": round(os.getloadavg()[0], 2),
        }
        about = ", ".join(f"{key} {value}" for key, value in machine.items())
        print(f"{figures['variant']}, {config.compute_dtype}, batch {batch}, {rounds} rounds; {about}")
        figures |= {"rounds": rounds, "batch": batch, "machine": machine}
        if args.tower:
            figures["tower"] = tower_table(recipe, batch, rounds)
        else:
            figures["step"] = step_table(recipe, batch, rounds)
            figures["memory"] = memory_table(config, batch, figures["step"]["actions + progress"]["reserved_bytes"])
            figures["required"] = required(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


class Stepper:
    """A run on one device; calling it takes a step."""

    def __init__(self, recipe: TrainConfig, rows: int, freeze: tuple[str, ...] = (), kept: bool = False) -> None:
        self.config, self.loss = recipe.model, recipe.loss
        config = recipe.model
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        self.rng, init_rng = training_keys(0)
        self.state = start_state(config, mesh, "everything", OPTIMIZER, init_rng, freeze=freeze).state
        self.batch = put_batch(mesh, made_up_batch(config, rows, kept))
        step = make_train_step(config, mesh, OPTIMIZER, recipe.loss, freeze=freeze, augmentation=recipe.augmentation)
        self.step = step.lower(self.state, self.rng, self.batch).compile()

    def __call__(self) -> Any:
        """The step's metrics; the state is kept for the next."""
        self.state, metrics = self.step(self.state, self.rng, self.batch)
        return metrics

    def cost(self) -> Cost:
        """Of loss, gradient and update."""
        transform, batch = make_optimizer(OPTIMIZER), self.batch
        labelled = batch.observation.progress_mask if self.config.progress.kind != "none" else None
        given = self.loss, batch.action_weight, batch.action_is_pad, labelled, batch.observation.positions_mask
        several = () if self.loss.flow_samples == 1 else (self.loss.flow_samples,)
        noise = jnp.zeros((len(batch.actions), *several, *batch.actions.shape[1:]))
        part = Part(Drawn(batch.observation, noise, jnp.zeros(noise.shape[:-2])), batch.actions, shares(*given))

        def loss(params: Any, frozen: Any, part: Part) -> Any:
            return total_loss(with_parameters(self.config, {**frozen, **params}), part, self.loss)[0]

        def update(state: TrainState, part: Part) -> Any:
            found, gradients = jax.value_and_grad(loss)(state.params, state.frozen, part)
            updates, opt_state = transform.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return found, params, opt_state, moving_average(OPTIMIZER.ema_decay, state.ema_params, params)

        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (self.state, part))
        return program_cost(update, *shapes)


def step_table(recipe: TrainConfig, rows: int, rounds: int) -> dict[str, dict[str, Any]]:
    """A step with and without the progress head and its loss, on the same samples."""
    models = {"actions only": recipe.model.with_progress("none"), "actions + progress": recipe.model}
    steppers = {name: Stepper(dataclasses.replace(recipe, model=model), rows) for name, model in models.items()}
    return measured(steppers, rounds)


def tower_table(recipe: TrainConfig, rows: int, rounds: int) -> dict[str, dict[str, Any]]:
    """A step whose vision tower learns, and steps without that: from the same pictures, and from its kept output."""
    frozen = {"freeze": (f"{VISION}.*",)}
    options = {"tower learns": {}, "tower frozen": frozen, "its output kept": frozen | {"kept": True}}
    return measured({name: Stepper(recipe, rows, **of) for name, of in options.items()}, rounds)


def measured(steppers: dict[str, Stepper], rounds: int) -> dict[str, dict[str, Any]]:
    """The table of some ways to take a step."""
    nothing = Sample(None, None)
    table_rows = {name: Row(stepper, stepper.cost(), lambda _: nothing) for name, stepper in steppers.items()}
    found = measure("a training step", table_rows, rounds)
    for name, stepper in steppers.items():
        found[name]["reserved_bytes"] = reserved_bytes(stepper.step)
        found[name]["loss"] = float(stepper()["loss"])
    return found


def memory_table(config: Pi05Config, rows: int, reserved: int) -> dict[str, int]:
    """Peak memory of the step with progress: as planned, as compiled, and of this process."""
    planned = plan_memory(config, devices=1, fsdp_devices=1, batch_size=rows, optimizer=OPTIMIZER)
    figures = {
        "planned": planned.total,
        "reserved by the compiled step": reserved,
        "peak of this process, both rows": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if stats := jax.devices()[0].memory_stats():
        figures["peak of the device"] = stats["peak_bytes_in_use"]
    print("\nmemory, GiB")
    for name, value in figures.items():
        print(f"{name:<36}{value / GIB:>10.3f}")
    return figures


def plans(config: Pi05Config) -> dict[str, dict[str, int]]:
    """What training everything, and adapters where it is the full model, needs per device."""
    adapters = dataclasses.replace(pi05_lora(), action_horizon=HORIZON)
    without_average = dataclasses.replace(OPTIMIZER, ema_decay=None)
    found: dict[str, MemoryPlan] = {}
    for devices, batch in PLANS:
        sizes = {"devices": devices, "fsdp_devices": devices, "batch_size": batch}
        where = f"{devices} x H100, batch {batch}"
        found[f"{config.name}, {where}"] = plan_memory(config, **sizes, optimizer=OPTIMIZER)
        if config.name == "pi05":
            found[f"{adapters.name}, {where}"] = plan_memory(
                adapters, **sizes, optimizer=without_average, trained="adapters"
            )
    print(table(found, H100))
    figures = {name: dataclasses.asdict(plan) for name, plan in found.items()}
    return {name: figures[name] | {"total": plan.total, "fits": plan.fits(H100)} for name, plan in found.items()}


def required(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is asked of these figures, and whether they meet it; times at ``mid`` only."""
    both, actions = (figures["step"][name] for name in ("actions + progress", "actions only"))
    found = {"with progress, FLOPs of actions only": (both["gflop"] / actions["gflop"], 1.001)}
    if figures["variant"] == "mid":
        found["with progress, time of actions only"] = (both["ratio"], 1.02)
    print(f"\n{'required':<48}{'found':>10}{'limit':>12}")
    result = {}
    for name, (value, limit) in found.items():
        met = value <= limit
        result[name] = {"found": value, "limit": f"<= {limit}", "met": met}
        print(f"{name:<48}{value:>10.5f}{f'<= {limit}':>12}  {'met' if met else 'MISSED'}")
    return result


if __name__ == "__main__":
    main()
