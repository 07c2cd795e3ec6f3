"""Imports checkpoints of openpi and LeRobot, exports to their layouts, and tells what a checkpoint is.

    python -m pi05_progress.convert_checkpoint inspect FOLDER
    python -m pi05_progress.convert_checkpoint import FOLDER_OR_NAME DESTINATION --config pi05
    python -m pi05_progress.convert_checkpoint export CHECKPOINT DESTINATION --to lerobot

Destinations appear when they are complete; sources are never changed. docs/checkpoints.md has the details.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import jax

from .checkpoints.checkpoint import MARKERS
from .checkpoints.description import CheckpointInfo, read_stats
from .checkpoints.foreign.config_fields import parse_fields, unknown_fields
from .checkpoints.foreign.conversion import (
    EXPORT_MARKERS,
    ImportOptions,
    Layout,
    carry_out,
    export_checkpoint,
    is_native,
    open_foreign,
    open_native,
    plan_import,
)
from .checkpoints.foreign.hub import resolve
from .checkpoints.parameter_source import ParameterSource, Progress, size_in_bytes
from .errors import run_program
from .files.output_folder import check_target
from .files.progress_bar import progress_bar
from .models.config import CONFIGS
from .observation import UNTRAINED
from .units.normalize import NormStats
from .units.tokenizer import TokenizerName

IMPORT_EXAMPLES = """examples:
  a step of openpi's training, 32 action dimensions, horizon 50:
    %(prog)s runs/pi05_mine/29999 checkpoints/mine --config pi05
  the same without a progress head, stored in bfloat16:
    %(prog)s runs/pi05_mine/29999 checkpoints/mine --config pi05 --progress none --dtype bfloat16
  fine-tuned with another horizon, state not in the prompt:
    %(prog)s pi05_libero checkpoints/libero --config pi05 --set action_horizon=10 --set discrete_state=false
  a LeRobot policy from a folder, or by name (needs huggingface_hub):
    %(prog)s outputs/train/checkpoints/last/pretrained_model checkpoints/mine
    %(prog)s lerobot/pi05_base checkpoints/base --robot teleavatar --fps 30
"""


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    top = argparse.ArgumentParser(prog="python -m pi05_progress.convert_checkpoint", description=__doc__, **raw)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add = commands.add_parser("import", help="from openpi or LeRobot", epilog=IMPORT_EXAMPLES, **raw)
    add.add_argument("source", help="folder, .safetensors file, or owner/name on a hub")
    add.add_argument("destination", type=Path, help="folder to write")
    add.add_argument("--config", choices=CONFIGS, help="configuration that supplies what parameters do not tell")
    add.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="one such field, as action_horizon=50"
    )
    kinds = ("scalar", "categorical", "none")
    add.add_argument("--progress", choices=kinds, help="progress head (default: what is there, else a new scalar one)")
    add.add_argument("--seed", type=int, default=0, help="of a new progress head (default: %(default)s)")
    add.add_argument("--dtype", choices=("float32", "bfloat16"), help="store parameters in (default: as they are)")
    add.add_argument("--robot", metavar="NAME", help="robot profile the actions are for (default: teleavatar)")
    add.add_argument("--fps", type=_positive, help="actions per second of the training data (default: 30)")
    add.add_argument("--delta-actions", action=argparse.BooleanOptionalAction, help="arm actions relative to the state")
    add.add_argument(
        "--z-score", action=argparse.BooleanOptionalAction, help="mean and deviation normalise, not quantiles"
    )
    add.add_argument("--tokenizer", choices=get_args(TokenizerName), help="of the prompt (default: by vocabulary)")
    add.add_argument("--model-id", metavar="NAME", help="name estimates are published under (default: the source's)")
    add.add_argument("--norm-stats", type=Path, metavar="FILE", help="statistics to use, in openpi's JSON")
    add.add_argument("--asset-id", metavar="ID", help="which statistics, if there are several")
    add.add_argument("--revision", help="branch, tag or commit on the hub")

    out = commands.add_parser("export", help="to openpi or LeRobot", **raw)
    out.add_argument("checkpoint", type=Path, help="folder of one of this package's checkpoints")
    out.add_argument("destination", type=Path, help="folder to write")
    out.add_argument("--to", choices=get_args(Layout), required=True, help="whose layout")
    out.add_argument("--dtype", choices=("float32", "bfloat16"), help="store parameters in (default: as they are)")

    look = commands.add_parser("inspect", help="tell what a checkpoint is", **raw)
    look.add_argument("source", help="folder, file, or owner/name on a hub; of any of the formats")
    look.add_argument("--leaves", action="store_true", help="list every parameter with shape and dtype")
    look.add_argument("--asset-id", metavar="ID", help="which statistics, if there are several")
    look.add_argument("--revision", help="branch, tag or commit on the hub")
    for command in (add, out):
        command.add_argument("--overwrite", action="store_true", help="replace the destination if it is there")
        command.add_argument("--quiet", action="store_true", help="no progress bar")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(arguments)
    carry_out = {"import": _import, "export": _export, "inspect": _inspect}[args.command]
    return run_program(lambda: carry_out(args), name=args.command)


def _import(args: argparse.Namespace) -> None:
    options = ImportOptions(
        config=args.config,
        fields=parse_fields(args.set),
        progress=args.progress,
        robot=args.robot,
        model_id=args.model_id,
        action_dt_s=None if args.fps is None else 1 / args.fps,
        delta_actions=args.delta_actions,
        quantiles=None if args.z_score is None else not args.z_score,
        tokenizer=args.tokenizer,
        norm_stats=args.norm_stats,
        asset_id=args.asset_id,
        seed=args.seed,
    )
    check_target(args.destination, MARKERS if args.overwrite else None)  # before anything is downloaded
    path = resolve(args.source, args.revision)
    planned = plan_import(path, options, None if Path(args.source).expanduser().exists() else args.source)
    print(f"{planned.foreign.kind} checkpoint {args.source}")
    _print_notes(planned.notes)
    with _bar(planned.source, args.quiet) as progress:
        carry_out(planned, args.destination, dtype=args.dtype, overwrite=args.overwrite, progress=progress)
    print(f"written to {args.destination}; {_about(planned.info, planned.foreign.stats)}")


def _export(args: argparse.Namespace) -> None:
    check_target(args.destination, EXPORT_MARKERS if args.overwrite else None)
    _, source = open_native(args.checkpoint)
    with _bar(source, args.quiet) as progress:
        notes = export_checkpoint(
            args.checkpoint,
            args.destination,
            args.to,
            dtype=args.dtype,
            overwrite=args.overwrite,
            progress=progress,
        )
    _print_notes(notes)
    print(f"written to {args.destination} in {args.to}'s layout")


def _inspect(args: argparse.Namespace) -> None:
    path = resolve(args.source, args.revision)
    if is_native(path):
        info, source = open_native(path)
        leaves = source.leaves
        print(f"{path}: a checkpoint of this package; {_about(info, read_stats(path, info))}")
        if info.source:
            print(f"  imported from {info.source.get('kind')} {info.source.get('name')}:")
            _print_notes(info.source.get("notes", ()))
        if info.labels:
            print(f"  labels: {dict(info.labels)}")
    else:
        foreign = open_foreign(path, args.asset_id)
        print(f"{path}: {foreign.kind} checkpoint")
        for name, value in sorted(foreign.fields.items()):
            print(f"  {name} = {value}")
        if foreign.description:
            print(f"  exported by this package: {_about(foreign.description, foreign.stats)}")
        elif unknown := unknown_fields(foreign.fields):
            print(f"  not told: {', '.join(unknown)}")
        _print_notes(foreign.notes)
        print(f"  statistics: {_statistics(foreign.asset_id, foreign.stats)}")
        leaves = foreign.listing
    _print_parameters(leaves, args.leaves)


def _print_parameters(leaves: Mapping[str, jax.ShapeDtypeStruct], each: bool) -> None:
    dtypes: Counter[str] = Counter()
    for leaf in leaves.values():
        dtypes[str(leaf.dtype)] += math.prod(leaf.shape)
    total = ", ".join(f"{count:,} in {dtype}" for dtype, count in dtypes.items())
    print(f"  parameters: {total}; {len(leaves)} arrays")
    if each:
        for path, leaf in leaves.items():
            print(f"    {path} {list(leaf.shape)} {leaf.dtype}")


def _about(info: CheckpointInfo, stats: Mapping[str, NormStats]) -> str:
    c = info.model
    published = f"published as {info.model_id!r}"
    if info.model_id == UNTRAINED:
        published += ", as its progress means nothing yet"
    return (
        f"configuration {c.name}: {c.action_horizon} x {c.action_dim} actions, prompts up to {c.max_token_len} tokens, "
        f"progress head {c.progress.kind}, robot {info.robot}, {1 / info.action_dt_s:.3g} actions per second, "
        f"{published}; statistics: {_statistics(info.asset_id, stats)}"
    )


def _statistics(asset_id: str | None, stats: Mapping[str, NormStats]) -> str:
    if not stats:
        return "none"
    return f"{asset_id} ({', '.join(f'{key} of {len(s.mean)}' for key, s in stats.items())})"


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"  - {note}")


@contextmanager
def _bar(source: ParameterSource, quiet: bool) -> Iterator[Progress]:
    """A progress bar over bytes read; nothing where nobody watches."""
    total = sum(size_in_bytes(leaf) for leaf in source.leaves.values())
    with progress_bar("", total, "bytes", quiet=quiet) as advance:
        yield lambda path, _: advance(size_in_bytes(source.leaves[path]), f"{path[-40:]:<40}")


if __name__ == "__main__":
    sys.exit(main())
