"""How much memory loading a checkpoint in bfloat16 takes, per format, as a multiple of the parameters' size.

python benchmarks/checkpoint_memory.py --variant pi05 --json memory.json

Writes random parameters leaf by leaf into a temporary folder, loads them in a process of its own, and reads that
process's largest resident size (getrusage), interpreter and libraries included. One load at a time. At full size it
needs 14 GB of disk per format, one after the other, and 10 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pi05_progress.checkpoints.checkpoint import load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo, write_description
from pi05_progress.checkpoints.foreign.conversion import ImportOptions, plan_import
from pi05_progress.checkpoints.foreign.lerobot import export_lerobot
from pi05_progress.checkpoints.orbax_files import VALUE, write_orbax
from pi05_progress.checkpoints.parameter_source import (
    Index,
    ParameterSource,
    aligned_empty,
    load_model,
    shape_of,
    size_in_bytes,
)
from pi05_progress.models.config import CONFIGS, named_config
from pi05_progress.models.parameters import parameter_paths, parameter_shapes

FORMATS = {"native": "bfloat16", "openpi": "float32", "lerobot": "bfloat16"}  # and what they are stored in
BLOCK = 2**24  # numbers drawn at once
SIZES = ("disk_bytes", "parameter_bytes", "before_bytes", "peak_bytes")  # columns, in GB
HEADINGS = ("on disk", "parameters", "before", "peak", "peak/size", "s")
LIMIT = 1.3
ROOM = 1.6  # times the parameters' size that must be free before a load


def random_source(variant: str, dtype: str) -> ParameterSource:
    """Random numbers in [-0.05, 0.05) in the shapes of a configuration's parameters, drawn when they are read."""
    rng = np.random.default_rng(0)
    wanted = parameter_shapes(named_config(variant))
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)) for path, leaf in wanted.items()}

    def read_piece(_: str, kind: np.dtype, index: Index) -> np.ndarray:
        out = aligned_empty(shape_of(index), kind)
        flat = out.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            part[:] = (rng.random(part.size, np.float32) - 0.5) * 0.1
        return out

    return ParameterSource("random numbers", leaves, read_piece)


def write(kind: str, variant: str, folder: Path) -> None:
    """A checkpoint of random parameters."""
    folder.mkdir()
    source = random_source(variant, FORMATS[kind])
    info = CheckpointInfo(named_config(variant))
    if kind == "native":
        write_orbax(folder / "params", source)
        write_description(folder, info, {})
    elif kind == "openpi":
        write_orbax(folder / "params", source, suffix=VALUE, chunk_bytes=None)  # chunks as large as openpi writes them
    else:
        export_lerobot(folder, source, info, {})


def load(kind: str, variant: str, folder: Path) -> dict[str, float]:
    """Load as bfloat16 and tell what it took; run in a process of its own."""
    before, started = peak(), time.perf_counter()
    if kind == "native":
        model = load_checkpoint(folder, dtype="bfloat16").model
    else:
        planned = plan_import(folder, ImportOptions(config=variant))
        model = load_model(planned.info.model, planned.source, dtype="bfloat16")
    arrays = parameter_paths(model)
    jax.block_until_ready(list(arrays.values()))
    seconds = time.perf_counter() - started
    return {
        "parameters": sum(array.size for array in arrays.values()),
        "parameter_bytes": sum(array.nbytes for array in arrays.values()),
        "before_bytes": before,
        "peak_bytes": peak(),
        "seconds": seconds,
    }


def peak() -> int:
    """Largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available() -> int:
    """Memory that can be had without swapping, bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def measure(kind: str, variant: str, parent: Path) -> dict[str, object]:
    """Write, load and remove one format."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="checkpoint_memory_") as folder:
        path = Path(folder) / kind
        subprocess.run([sys.executable, __file__, "--write", kind, "--variant", variant, "--at", path], check=True)
        on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        command = [sys.executable, __file__, "--load", kind, "--variant", variant, "--at", path]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"format": kind, "stored": FORMATS[kind], "disk_bytes": on_disk, **json.loads(result.stdout)}


def check_room(variant: str, parent: Path) -> None:
    """Stop before anything is written where memory or disk would not do."""
    size = sum(size_in_bytes(leaf) for leaf in random_source(variant, "bfloat16").leaves.values())
    disk = shutil.disk_usage(parent).free
    if disk < 2.5 * size:
        sys.exit(
            f"{parent} has {disk / 1e9:.1f} GB left, {2.5 * size / 1e9:.1f} GB are needed; choose another --folder"
        )
    if available() < ROOM * size:
        sys.exit(f"{available() / 1e9:.1f} GB of memory are available, {ROOM * size / 1e9:.1f} GB are needed")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=CONFIGS, default="mid", help="configuration (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="which (default: all)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for temporary files")
    parser.add_argument("--json", type=Path, help="write every number to this file, too")
    for step in ("--write", "--load"):
        parser.add_argument(step, choices=FORMATS, help=argparse.SUPPRESS)
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.write, args.variant, args.at)
        return
    if args.load:
        print(json.dumps(load(args.load, args.variant, args.at)))
        return
    check_room(args.variant, args.folder)
    print(f"{args.variant}, loaded as bfloat16 on {os.cpu_count()} cores; GB are 10^9 bytes")
    print(f"{'format':<10}{'stored':>10}" + "".join(f"{name:>11}" for name in HEADINGS))
    rows = []
    for kind in args.formats:
        row = measure(kind, args.variant, args.folder)
        rows.append(row)
        ratio = row["ratio"] = row["peak_bytes"] / row["parameter_bytes"]
        sizes = "".join(f"{row[key] / 1e9:>11.3f}" for key in SIZES)
        print(f"{kind:<10}{row['stored']:>10}{sizes}{ratio:>11.3f}{row['seconds']:>11.1f}", flush=True)
    if args.variant.startswith("pi05"):
        print(f"limit: {LIMIT} times the size; {'kept' if all(r['ratio'] < LIMIT for r in rows) else 'EXCEEDED'}")
    else:
        print(
            "the limit, 1.3 times the size, is meant for pi05; here the libraries alone are larger than the parameters"
        )
    if args.json:
        args.json.write_text(json.dumps({"variant": args.variant, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
