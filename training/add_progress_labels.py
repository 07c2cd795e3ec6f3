"""Adds progress labels to a LeRobot v3.0 data set; the input stays as it is.

    python -m training.add_progress_labels --input_dataset IN --output_dataset OUT
    python -m training.add_progress_labels --input_dataset IN --output_dataset OUT --method milestone

Every frame gets `observation.progress` (0 to 1), `progress.valid` and `progress.seconds_remaining`; with milestones
`progress.stage`, too. Statistics and metadata are completed, videos are hard-linked or copied. Labels that are there
already are replaced. Which method to use when: docs/labels.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_folder import check_target, output_folder, refuse_overlap
from pi05_progress.files.progress_bar import progress_bar

from .datasets import layout
from .datasets.progress_meta import EpisodeMeta, Labels, Outcome, load_progress_meta
from .datasets.reader import Dataset, open_dataset
from .labels.labelling import LabelSet, Options, checked_facts, label, with_marks
from .labels.milestones import read_csv
from .labels.writing import former_columns, label_columns, write_labelled


@dataclass(frozen=True)
class LabelOptions(Options):
    """Command line."""

    input_dataset: Path
    """Folder of the data set that gets labels; it is only read."""
    output_dataset: Path
    """Folder of the labelled data set; it appears complete or not at all."""
    failed: tuple[int, ...] = ()
    """Indices of episodes that failed, besides those that meta/progress.json knows of."""
    milestones: Path | None = None
    """CSV file with the columns episode_index, label and frame (or seconds); replaces recorded milestones."""
    column: str = layout.PROGRESS_COLUMN
    """Name of the progress column."""
    copy_videos: bool = False
    """Copy videos instead of hard-linking them."""
    overwrite: bool = False
    """Replace the output folder if a data set is there; other folders never are."""


def add_progress_labels(args: LabelOptions) -> tuple[Dataset, LabelSet]:
    """Label a data set; returns the input's metadata and the labels."""
    refuse_overlap(args.output_dataset, [args.input_dataset])
    replaces = layout.MARKERS if args.overwrite else None
    check_target(args.output_dataset, replaces)  # fails early, as what follows
    _check_column(args.column)
    dataset = open_dataset(args.input_dataset)
    former_columns(dataset, args.column)
    facts, source = dict(load_progress_meta(dataset.root).episodes), str(dataset.root / layout.PROGRESS)
    checked_facts(dataset, facts, source)
    if args.milestones is not None:
        facts, source = with_marks(dataset, facts, read_csv(args.milestones)), str(args.milestones)
    for index in args.failed:
        if not 0 <= index < len(dataset.episodes):
            raise UserError(f"--failed {index}: the data set has the episodes 0 to {len(dataset.episodes) - 1}")
        facts[index] = replace(facts.get(index, EpisodeMeta()), outcome=Outcome.FAILURE)
    complete = checked_facts(dataset, facts, source)
    labels = label(dataset, complete, args)
    if missing := dataset.missing_videos():
        note = f"{len(missing)} videos are missing in the input, as {missing[0]}; the labelled data set lacks them, too"
        labels = replace(labels, notes=(*labels.notes, note))
    record = Labels(args.method, args.arguments(), label_columns(labels, args.column))
    with (
        output_folder(args.output_dataset, replaces=replaces) as folder,
        progress_bar("labelling", dataset.frame_count, "frames") as advance,
    ):
        write_labelled(
            dataset, folder, labels, facts=complete, record=record, copy_videos=args.copy_videos, progress=advance
        )
    return dataset, labels


def _check_column(name: str) -> None:
    """Names that data sets or LeRobot use for something else are refused, whether this data set has them or not."""
    if not name.strip() or "/" in name or name in layout.DEFAULT_FEATURES:
        raise UserError(f"--column {name!r}: a name without '/' that no other feature has is needed")
    if name in layout.OTHER_LABELS:
        raise UserError(f"--column {name!r}: that is the name of another label")
    if name in layout.RESERVED or name.startswith(layout.RESERVED_BEGINNINGS) or name.endswith(layout.PADDING_END):
        raise UserError(
            f"--column {name!r}: LeRobot takes a feature of that name for something else than a label; "
            f"{layout.PROGRESS_COLUMN} and progress.label are good names"
        )


def report(dataset: Dataset, labels: LabelSet, label_cut_off: bool) -> str:
    """What was labelled, for people."""
    outcomes = labels.outcomes
    unknown = outcomes.get(Outcome.UNKNOWN, 0) - len(labels.cut_off)
    lines = [
        f"episodes: {outcomes.get(Outcome.SUCCESS, 0)} success, {unknown} unknown (counted as success), "
        f"{outcomes.get(Outcome.FAILURE, 0)} failure"
    ]
    if labels.cut_off:
        counted = "success" if label_cut_off else "failures, --label_cut_off counts them as success"
        indices = ", ".join(map(str, labels.cut_off))
        lines.append(f"cut off or aborted: {len(labels.cut_off)} ({indices}), counted as {counted}")
    valid = sum(int(of.valid.sum()) for of in labels.episodes.values())
    some = sum(bool(of.valid.any()) for of in labels.episodes.values())
    lines.append(f"labelled: {some} of {len(labels.episodes)} episodes, {valid} of {dataset.frame_count} frames")
    for task, stages in labels.stages.items():
        shares = ", ".join(f"{stage.name} {stage.share:.3f}" for stage in stages)
        lines.append(f"stages of {task!r}: {shares}")
    return "\n".join([*lines, *(f"note: {note}" for note in labels.notes)])


def main() -> int:
    """Parse the command line, label, report; returns the exit status."""
    args = tyro.cli(LabelOptions, description=__doc__)

    def label() -> None:
        dataset, labels = add_progress_labels(args)
        print(report(dataset, labels, args.label_cut_off))

    return run_program(label, kept=f"nothing was written to {args.output_dataset}")


if __name__ == "__main__":
    sys.exit(main())
