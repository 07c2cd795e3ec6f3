"""Trains a temporal head, by which progress remembers, on what a checkpoint says over whole labelled episodes.

    python -m training.train_temporal --checkpoint C --dataset D... --output DIR

The checkpoint itself stays as it is: a copy with ``temporal/`` appears beside. Answers are computed once and kept, so a
run that was stopped goes on, and another training on them takes minutes. Episodes that the checkpoint's run held out
calibrate intervals, probabilities and alarms. What the head is worth says ``training.evaluate_progress``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from flax import nnx

from pi05_progress.checkpoints.checkpoint import HEAD_FILE, MARKERS, TEMPORAL
from pi05_progress.checkpoints.description import ASSETS, CONFIG, PARAMS, CheckpointInfo, read_info
from pi05_progress.checkpoints.digests import write_digests
from pi05_progress.errors import UserError, run_program
from pi05_progress.estimate.temporal import About, TemporalHead
from pi05_progress.files.output_folder import LOCK, output_folder, refuse_overlap
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.policy import ALL_ON, Noise, PolicyOptions
from pi05_progress.robots.profile import RobotProfile

from .datasets.instructions import Instructions
from .evaluation.cache import FOLDER, AnswerCache, code_digest, fingerprint_of_answers
from .evaluation.predictions import ready_policy
from .loading.split import read_splits, splits_of
from .temporal.calibration import NEVER, calibrated
from .temporal.network import Network, train
from .temporal.playing import Truth, drawn
from .temporal.preparation import prepared
from .temporal.streams import Stream, read_streams

AT_ONCE = 16  # frames that the policy answers together
BATCH, LENGTH = 24, 64  # courses of a step, inferences of a course


@dataclass(frozen=True)
class TemporalOptions:
    """Command line."""

    checkpoint: Path
    """Folder of the checkpoint; it stays as it is."""
    dataset: tuple[Path, ...]
    """Labelled data sets, failures among them; they are only read."""
    output: Path
    """New folder: the checkpoint with its temporal head."""
    held_out: Path | None = None
    """held_out.json of the checkpoint's run, if it does not lie in its folder: those episodes calibrate."""
    instructions: Path | None = None
    """Other wordings of the data's instructions, and such as are to be refused, as config/instructions.yaml has them:
    the head learns progress under the former, and to say of the latter that it is UNKNOWN."""
    steps: int = 700
    """Of training."""
    false_alarms: float = 0.05
    """Share of successful episodes in which a failure may be called."""
    unlike: float = 0.02
    """Share of held-out episodes of which a moment may be called unlike the data."""
    seed: int = 0
    """Of training."""
    noise: Noise = "fresh"
    """That actions start from, as where the checkpoint will be used: chunks agree better without fresh noise."""
    tokenizer: str = ""
    """Path of PaliGemma's tokenizer, for checkpoints that use it."""
    cache: Path = FOLDER
    """Folder where answers are kept."""
    overwrite: bool = False
    """Replace a checkpoint that is there."""


def run(args: TemporalOptions) -> bytes:
    """Compute what is missing, train, calibrate, write; returns the head."""
    if args.steps < 1 or not (0 <= args.false_alarms < 1 and 0 <= args.unlike < 1):
        raise UserError("--steps must be at least 1, --false_alarms and --unlike shares from 0 to below 1")
    refuse_overlap(args.output, [args.checkpoint, *args.dataset])
    info = read_info(args.checkpoint)
    with output_folder(args.output, replaces=MARKERS if args.overwrite else None) as partial:
        data = _head(args, info, *_streams(args, info))
        ignored = shutil.ignore_patterns(TEMPORAL, f"{TEMPORAL}.*", LOCK)
        shutil.copytree(args.checkpoint, partial, ignore=ignored, dirs_exist_ok=True)
        (partial / TEMPORAL).mkdir()
        (partial / TEMPORAL / HEAD_FILE).write_bytes(data)
        write_digests(partial / TEMPORAL, partial)
    return data


def _streams(args: TemporalOptions, info: CheckpointInfo) -> tuple[list[Stream], dict[str, tuple[str, ...]]]:
    """Streams of all data sets, and names of stages by task."""
    profile = RobotProfile.load(info.robot)
    options = PolicyOptions(
        checkpoint=str(args.checkpoint), tokenizer=args.tokenizer, noise=args.noise, max_batch=AT_ONCE, temporal=False,
        inference=replace(ALL_ON, warm_up=False),
    )  # fmt: skip
    policy = ready_policy(profile, options)
    splits = read_splits(args.held_out) if args.held_out else splits_of(args.checkpoint)
    instructions = None if args.instructions is None else Instructions.load(args.instructions)
    settings = {
        "temporal": True, "noise": args.noise, "tokenizer": args.tokenizer, "code": code_digest(),
        "robot": profile.model_dump(mode="json"),
    }  # fmt: skip
    parts = [args.checkpoint / name for name in (PARAMS, ASSETS, CONFIG)]
    streams, stages = [], {}
    with progress_bar("computing answers", None, "episodes") as advance:
        for root in args.dataset:
            name = fingerprint_of_answers([*parts, root], settings)
            cache = AnswerCache(args.cache.expanduser() / name)
            of, named = read_streams(policy, profile, root, splits, cache, instructions, advance)
            streams += of
            stages |= {task: tuple(stage.name for stage in all_of) for task, all_of in named.items()}
    return streams, stages


def _head(
    args: TemporalOptions, info: CheckpointInfo, streams: Sequence[Stream], stages: Mapping[str, tuple[str, ...]]
) -> bytes:
    """The head, trained and calibrated."""
    durations_s = info.durations_s()
    for task in {stream.task for stream in streams} - durations_s.keys():
        seconds = [np.nanmax(s.remaining_s) for s in streams if s.task == task and np.isfinite(s.remaining_s).any()]
        durations_s |= {task: max(float(np.median(seconds)), 1e-3)} if seconds else {}
    known = [stream for stream in streams if stream.task in durations_s]
    training = [stream for stream in known if not stream.validation]
    held_out = [stream for stream in known if stream.validation]
    if not training or not any(stream.success for stream in held_out):
        told = f"{len(training)} episodes to train on and {len(held_out)} to calibrate with"
        raise UserError(f"{told}: both are needed, and successes among them; give more --dataset")
    rng, arrays = np.random.default_rng(args.seed), prepared(training)
    weights = np.array([1.0 if stream.success or stream.refused else 3.0 for stream in training])  # failures are few

    def draw() -> tuple[np.ndarray, Truth]:
        some = [training[i] for i in rng.choice(len(training), BATCH, p=weights / weights.sum())]
        return drawn(rng, some, arrays, [durations_s[s.task] for s in some], info.action_dt_s, LENGTH)

    read = np.concatenate([draw()[0] for _ in range(8)])
    arrays |= {"input_mean": read.mean(axis=(0, 1)), "input_std": read.std(axis=(0, 1)) + 1e-2}
    taught = any(stream.refused for stream in training)
    network = Network(read.shape[-1], max([1, *map(len, stages.values())]), nnx.Rngs(args.seed), taught)
    with progress_bar("training", args.steps, "steps") as advance:
        loss = train(network, arrays, draw, args.steps, advance)
    made = {
        "datasets": [root.name for root in args.dataset], "trained_on": len(training), "calibrated_with": len(held_out),
        "steps": args.steps, "loss": loss, "false_alarms": args.false_alarms, "unlike": args.unlike,
        "noise": args.noise, "instructions": args.instructions and args.instructions.name,
    }  # fmt: skip
    about = About(info.action_dt_s, stages, durations_s, NEVER, {}, NEVER if taught else None, made)
    return calibrated(arrays | network.arrays(), about, training, held_out, args.false_alarms, args.unlike)


def _run_and_print(args: TemporalOptions) -> None:
    about = TemporalHead(run(args)).about
    print(f"trained on {about.made['trained_on']} episodes, calibrated with {about.made['calibrated_with']}")
    print("alarms: " + ", ".join(f"{name} above {limit:.3g}" for name, limit in about.alarms.items()))
    print(f"written: {args.output}")


def main() -> int:
    """Parse the command line and train; returns the exit status."""
    args = tyro.cli(TemporalOptions, description=__doc__)
    return run_program(lambda: _run_and_print(args), stopped="stopped; the same command goes on where it was")


if __name__ == "__main__":
    sys.exit(main())
