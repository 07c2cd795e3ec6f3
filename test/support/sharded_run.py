"""A run on some of several devices and processes, as a program: prints its losses, and where its arrays lie, as JSON.

python sharded_run.py '{"fsdp": 4, "steps": 3, "processes": 2, "index": 0, "port": 1234}'
"""

import json
import sys

import jax
import numpy as np
from small_models import SMALL, random_model
from training_cases import made_up_batch, source_of

from pi05_progress.models.augmentation import OPENPI
from training.engine import sharding
from training.engine.loss import LossConfig
from training.engine.optimizer import OptimizerConfig
from training.engine.sharding import MeshConfig, make_mesh, put_batch, start_processes
from training.engine.state import start_state
from training.engine.step import make_train_step, training_keys

GIVEN = json.loads(sys.argv[1])


def main():
    sharding.SMALLEST_SHARDED = 256  # bytes; a small model's leaves are all smaller than what is cut in earnest
    processes, index = GIVEN.get("processes", 1), GIVEN.get("index", 0)
    config = MeshConfig(fsdp_devices=GIVEN["fsdp"])
    if processes > 1:
        config = MeshConfig(GIVEN["fsdp"], True, f"localhost:{GIVEN['port']}", processes, index)
    start_processes(config)
    optimizer = OptimizerConfig(**GIVEN["optimizer"])
    mesh = make_mesh(config)
    read = {}  # largest piece of each leaf that was read, as a share of it
    base = source_of(random_model(SMALL))

    def read_piece(path, dtype, piece):
        found = base.read_piece(path, dtype, piece)
        read[path] = max(read.get(path, 0), found.size / np.prod(base.leaves[path].shape))
        return found

    source = type(base)("small", base.leaves, read_piece) if GIVEN.get("source") else None
    train_rng, init_rng = training_keys(0)
    state = start_state(SMALL, mesh, "everything", optimizer, init_rng, source).state
    step = make_train_step(SMALL, mesh, optimizer, LossConfig(), augmentation=OPENPI if GIVEN["augment"] else None)
    losses = []
    for number in range(GIVEN["steps"]):
        whole = made_up_batch(seed=number)
        rows = len(whole.actions) // processes
        mine = jax.tree.map(lambda x: x[index * rows : (index + 1) * rows], whole)  # noqa: B023 (called at once)
        state, metrics = step(state, train_rng, put_batch(mesh, mine))
        losses.append({name: float(metrics[name]) for name in ("loss", "action_loss", "progress_loss", "grad_norm")})
    device = jax.local_devices()[0]
    held = [
        shard.data.nbytes for x in jax.tree.leaves(state) for shard in x.addressable_shards if shard.device == device
    ]
    report = {
        "losses": losses,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "bytes_on_a_device": sum(held),
        "bytes": sum(x.nbytes for x in jax.tree.leaves(state)),
        "read": read,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
