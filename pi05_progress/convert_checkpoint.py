"""Imports checkpoints of openpi and LeRobot, exports to their layouts, and tells what a checkpoint is.

    python -m pi05_progress.convert_checkpoint inspect FOLDER
    python -m pi05_progress.convert_checkpoint import FOLDER_OR_NAME DESTINATION --config pi05
    python -m pi05_progress.convert_checkpoint export CHECKPOINT DESTINATION --to lerobot

Destinations appear when they are complete; sources are never changed. docs/checkpoints.md has the details. Examples:

A step of openpi's training, 32 action dimensions, horizon 50:
    import runs/pi05_mine/29999 checkpoints/mine --config pi05

The same without a progress head, stored in bfloat16:
    import runs/pi05_mine/29999 checkpoints/mine --config pi05 --progress none --dtype bfloat16

Fine-tuned with another horizon, state not in the prompt:
    import pi05_libero checkpoints/libero --config pi05 --set action_horizon=10 --set discrete_state=false

A LeRobot policy from a folder, or by name (needs huggingface_hub):
    import outputs/train/checkpoints/last/pretrained_model checkpoints/mine
    import lerobot/pi05_base checkpoints/base --robot teleavatar --fps 30
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg, subcommand

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
from .errors import UsageError, run_program
from .files.output_folder import check_target
from .files.progress_bar import progress_bar
from .models.config import CONFIGS, ProgressKind
from .observation import UNTRAINED
from .units.normalize import NormStats
from .units.tokenizer import TokenizerName

StoredIn = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is said of every source, whichever its format."""

    source: Positional[str]
    """Folder, .safetensors file, or owner/name on a hub."""
    asset_id: str | None = None
    """Which statistics, if there are several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What is said of every destination."""

    overwrite: bool = False
    """Replace the destination if it is there."""
    quiet: bool = False
    """No progress bar."""
    dtype: StoredIn | None = None
    """Store parameters in; as they are if not given."""


@dataclass(frozen=True, kw_only=True)
class Import(Writing, Reading):
    """From openpi or LeRobot."""

    destination: Positional[Path]
    """Folder to write."""
    config: Annotated[str | None, arg(metavar="{" + ",".join(CONFIGS) + "}")] = None
    """Configuration that supplies what parameters do not tell."""
    set: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE")]] = ()
    """One such field, as action_horizon=50; may be repeated."""
    progress: ProgressKind | None = None
    """Progress head; what is there if not given, else a new scalar one."""
    seed: int = 0
    """Of a new progress head."""
    robot: str | None = None
    """Robot profile the actions are for; teleavatar if not given."""
    fps: float | None = None
    """Actions per second of the training data; 30 if not given."""
    delta_actions: bool = False
    """Arm actions are relative to the state, with --no-delta-actions they are not; what is told if not given."""
    no_delta_actions: bool = False
    """See --delta-actions."""
    z_score: bool = False
    """Mean and deviation normalise, with --no-z-score quantiles do; what is told if not given."""
    no_z_score: bool = False
    """See --z-score."""
    tokenizer: TokenizerName | None = None
    """Of the prompt; by vocabulary if not given."""
    model_id: str | None = None
    """Name estimates are published under; the source's if not given."""
    norm_stats: Path | None = None
    """Statistics to use, in openpi's JSON."""


@dataclass(frozen=True, kw_only=True)
class Export(Writing):
    """To openpi or LeRobot."""

    checkpoint: Positional[Path]
    """Folder of one of this package's checkpoints."""
    destination: Positional[Path]
    """Folder to write."""
    to: Layout
    """Whose layout."""


@dataclass(frozen=True, kw_only=True)
class Inspect(Reading):
    """Tell what a checkpoint is."""

    leaves: bool = False
    """List every parameter with shape and dtype."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = tyro.cli(
        Annotated[Import, subcommand("import")] | Annotated[Export, subcommand("export")] | Inspect,
        prog="python -m pi05_progress.convert_checkpoint",
        description=__doc__,
        args=arguments,
        config=(FlagCreatePairsOff,),
    )
    carry_out = {Import: _import, Export: _export, Inspect: _inspect}[type(args)]
    return run_program(lambda: carry_out(args), name=type(args).__name__.lower())


def _either(name: str, yes: bool, no: bool) -> bool | None:
    """What a pair of flags says; None if neither is given."""
    if yes and no:
        raise UsageError(f"--{name} and --no-{name}: one of them, please")
    return yes if yes or no else None


def _import(args: Import) -> None:
    if args.fps is not None and not (math.isfinite(args.fps) and args.fps > 0):
        raise UsageError(f"--fps {args.fps}: expected a positive number")
    z_score = _either("z-score", args.z_score, args.no_z_score)
    told = vars(args) | {
        "fields": parse_fields(args.set),
        "action_dt_s": None if args.fps is None else 1 / args.fps,
        "delta_actions": _either("delta-actions", args.delta_actions, args.no_delta_actions),
        "quantiles": None if z_score is None else not z_score,
    }
    options = ImportOptions(**{field.name: told[field.name] for field in fields(ImportOptions)})
    check_target(args.destination, MARKERS if args.overwrite else None)  # before anything is downloaded
    path = resolve(args.source, args.revision)
    planned = plan_import(path, options, None if Path(args.source).expanduser().exists() else args.source)
    print(f"{planned.foreign.kind} checkpoint {args.source}")
    _print_notes(planned.notes)
    with _bar(planned.source, args.quiet) as progress:
        carry_out(planned, args.destination, dtype=args.dtype, overwrite=args.overwrite, progress=progress)
    print(f"written to {args.destination}; {_about(planned.info, planned.foreign.stats)}")


def _export(args: Export) -> None:
    check_target(args.destination, EXPORT_MARKERS if args.overwrite else None)
    _, source = open_native(args.checkpoint)
    written = {"dtype": args.dtype, "overwrite": args.overwrite}
    with _bar(source, args.quiet) as progress:
        notes = export_checkpoint(args.checkpoint, args.destination, args.to, progress=progress, **written)
    _print_notes(notes)
    print(f"written to {args.destination} in {args.to}'s layout")


def _inspect(args: Inspect) -> None:
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
