"""How the head camera of this checkpoint learnt where things are, before it learnt to act with that; see README.md.

    python models/tiny_acting/locate.py OLD NEW LIFT BASKET STACK ... --minutes 20

OLD is a checkpoint of the recipe, also of the time when it looked at whole pictures and knew nothing of hands: it
becomes one as the recipe has it, in which what is new counts for nothing until it is trained. The head camera's part of
the tower and the position head learn from the loss of positions alone; all else stays. Data sets have pictures as they
were recorded, so that what is cut out is sharp.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import read_info, read_stats
from pi05_progress.checkpoints.orbax_files import open_orbax
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.models.augmentation import AugmentationConfig, cameras_left, recolour
from pi05_progress.models.images import to_unit_range
from pi05_progress.models.observation import Observation
from pi05_progress.models.parameters import parameter_shapes
from pi05_progress.models.positions import position_loss
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.units.tokenizer import make_encoder
from training.engine.state import with_parameters
from training.loading.loader import TrainLoader
from training.recipes.tiny_acting import recipe

LEARNS = ("PaliGemma/img/base_", "PaliGemma/img/camera_embedding", "position_head/hidden", "position_head/output")
COLOURS = AugmentationConfig(saturation=0.1, white_balance=0.1, exposure=0.15)
BATCH, RATE, DROPOUT, AVERAGE = 64, 8e-4, 0.03, 0.998


def main() -> None:
    """Learn for some minutes, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()

    info, source, made = read_info(args.old), open_orbax(args.old / "params"), recipe()
    stats, model = read_stats(args.old, info), made.model
    everything = {}
    for path, wanted in parameter_shapes(model).items():  # what is new is 0, at the end of an axis
        have = (
            np.asarray(source.read(path), np.float32) if path in source.leaves else np.zeros(wanted.shape, np.float32)
        )
        widths = [(0, w - h) for w, h in zip(wanted.shape, have.shape, strict=True)]
        everything[path] = jnp.asarray(np.pad(have, widths))
    where = {"norm_stats": next((args.old / "assets").rglob("norm_stats.json")), "foreign_norm_stats": True}
    data = dataclasses.replace(made.data, repo_id=",".join(args.data), resident=True, **where)
    loader = TrainLoader(data, model, make_encoder("words", None), batch_size=BATCH, seed=0)
    samples = loader.all_samples().observation

    params = {path: of for path, of in everything.items() if path.startswith(LEARNS)}
    rest = {path: of for path, of in everything.items() if path not in params}
    optimizer = optax.inject_hyperparams(
        lambda learning_rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate))
    )(learning_rate=RATE)

    def loss(params: dict[str, Array], of: Observation, key: Array) -> Array:
        head, *wrists = IMAGE_KEYS
        keys, picture = jax.random.split(key, BATCH), to_unit_range(of.images[head]) / 2 + 0.5
        seen = jax.vmap(lambda own, image: recolour(own, image, COLOURS))(keys, picture) * 2 - 1
        images = {head: seen} | {wrist: of.images[wrist] for wrist in wrists}
        masks = cameras_left(jax.random.fold_in(key, 1), of.image_masks, DROPOUT)
        changed = dataclasses.replace(of, images=images, image_masks=masks)
        found = with_parameters(model, {**rest, **params}).embed_prefix(changed).positions
        return position_loss(found, of.positions, of.positions_mask).sum() / of.positions_mask.sum()

    @jax.jit
    def step(params: dict, state: Any, averaged: dict, of: Observation, key: Array, share: float) -> tuple:
        value, slope = jax.value_and_grad(loss)(params, of, key)
        change, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, change)
        return params, state, optax.incremental_update(params, averaged, share), value

    state, averaged, began, said = optimizer.init(params), params, time.monotonic(), 0.0
    for number in range(10**9):
        spent = (time.monotonic() - began) / 60
        if spent >= args.minutes:
            break
        rate = RATE * min(1, (number + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * spent / args.minutes) + 0.01)
        state.hyperparams["learning_rate"] = np.float32(rate)
        rows = loader.choose(1)[0]
        batch = jax.tree.map(lambda array, rows=rows: array[rows], samples)
        share = max(1 - AVERAGE, 1 / (number + 1))
        params, state, averaged, value = step(params, state, averaged, batch, jax.random.key(number), share)
        if spent > said + 1:
            said = spent
            print(f"{spent:.0f} min, step {number}: off by {1e2 * float(value):.1f} mm a coordinate", flush=True)
    learnt = with_parameters(model, {**rest, **averaged})
    info = dataclasses.replace(info, model=model, model_id="tiny_acting/located")
    save_checkpoint(args.new, Checkpoint(info, learnt, stats))


if __name__ == "__main__":
    main()
