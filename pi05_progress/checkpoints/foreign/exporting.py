"""This package's checkpoints into the layouts of openpi and LeRobot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from ...files.output_folder import output_folder, refuse_overlap
from ...models.parameters import HEAD
from ..description import PARAMS, CheckpointInfo, read_info, read_stats, write_description
from ..loading import check_fit
from ..orbax_files import VALUE, open_orbax, write_orbax
from ..parameter_source import ParameterSource, Progress
from .foreign_checkpoint import DESCRIPTION
from .lerobot import export_lerobot

Layout = Literal["openpi", "lerobot"]
LAYOUTS = get_args(Layout)
MARKERS = (DESCRIPTION,)  # what has it is an export, which may be overwritten


def open_native(folder: Path) -> tuple[CheckpointInfo, ParameterSource]:
    """A checkpoint of this package, its parameters not read yet.

    Raises:
        CheckpointError: missing, incomplete, or parameters do not fit its description.
    """
    info = read_info(folder)
    source = open_orbax(Path(folder) / PARAMS)
    check_fit(info.model, source)
    return info, source


def export_checkpoint(
    folder: Path,
    destination: Path,
    layout: Layout,
    *,
    dtype: Literal["float32", "bfloat16"] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write a checkpoint in another program's layout; returns what a person should know.

    Beside what the other program reads lie the statistics (``assets/<id>/norm_stats.json``) and this checkpoint's
    description (``pi05_progress.json``), so that importing the export gives the same checkpoint again.

    Args:
        destination: to write; appears when it is complete.
        dtype: to store parameters in; None keeps what they have. The progress head keeps its own.
        overwrite: whether to replace an export that is there; other folders never are.
        progress: called with path and bytes of every leaf.

    Raises:
        CheckpointError: the checkpoint is incomplete, or the layout has no place for it.
        OutputFolderError: the destination is there already or cannot be written, or one of both lies in the other.
    """
    info, source = open_native(folder)
    stats = read_stats(folder, info)
    refuse_overlap(destination, [folder])
    with output_folder(destination, replaces=MARKERS if overwrite else None) as partial:
        if layout == "openpi":
            write_orbax(partial / PARAMS, source, dtype=dtype, suffix=VALUE, progress=progress)
            kept = f"the progress head is kept ({HEAD}*); openpi passes over parameters it does not know"
            notes = [] if info.model.progress.kind == "none" else [kept]
        else:
            notes = export_lerobot(partial, source, info, stats, dtype=dtype, progress=progress)
        write_description(partial, info, stats, DESCRIPTION)
    if not stats:
        notes.append("the checkpoint has no normalisation statistics, so the export has none")
    return notes
