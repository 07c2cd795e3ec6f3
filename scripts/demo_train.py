#!/usr/bin/env python3
"""The shipped checkpoint, made anew: data, labels, training, evaluation, driving; ``make demo-train``.

    .venv/bin/python scripts/with_ros.py .venv/bin/python scripts/demo_train.py --out out/demo-train

Every step is one of the project's own commands, printed before it runs, and can be stopped: started again, the same
command goes on where it was. On two cores it takes about three hours, one of them training. --list prints the commands
and runs none. models/tiny_demo/README.md says what came of them.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("stack_cubes", "place_in_basket")
FPS, SIZE, SCALE = "30", "70x112", "0.15"
# Faults that are mended (a missed grasp, a drop, a step undone), a pause, and giving up, each in a share of episodes.
FAULTS = ("missed_grasp:0", "long_pause:1", "gives_up:1", "dropped_object:2", "gives_up:2", "undone_step:2")
LIVE_FAULTS = ("gives_up:1", "long_pause:1", "missed_grasp:0")
RUN = "shipped"


@dataclass(frozen=True)
class Step:
    """A command, and what is there when it is done."""

    name: str
    arguments: tuple[str, ...]
    result: Path
    resumes: bool = False  # whether the command itself keeps what is there, so that running it again is right

    @property
    def command(self) -> list[str]:
        """As it is run."""
        return [sys.executable, "-m", *self.arguments]


def faults(kinds: tuple[str, ...], share: str) -> tuple[str, ...]:
    """Flags of the two programs that record."""
    return (*(flag for kind in kinds for flag in ("--fault", kind)), "--fault-share", share)


def recordings(bags: Path) -> list[Step]:
    """Episodes per task: 110 generated and 8 live to learn from, 45 and 20 with more faults to judge by."""
    steps = []
    for task in TASKS:
        for name, count, seed, share in (
            ("train", "110", "100", "0.15"),
            ("heldout", "45", "5000", "0.15"),
            ("heldout_faults", "20", "6000", "0.4"),
        ):
            out = bags / f"{name}_{task}"
            where = ("--task", task, "--episodes", count, "--seed", seed, "--out", str(out), "--image-scale", SCALE)
            arguments = ("pi05_progress_ros.sim.generate", *where, *faults(FAULTS, share))
            steps.append(Step(f"generate {out.name}", arguments, out / "episodes.json", resumes=True))
        out = bags / f"live_{task}"
        where = ("--task", task, "--episodes", "8", "--seed", "300", "--out", str(out))
        arguments = ("pi05_progress_ros.sim.record_live", *where, *faults(LIVE_FAULTS, "0.2"))
        steps.append(Step(f"record {out.name}", arguments, out / "episodes.json", resumes=True))
    return steps


def data_sets(bags: Path, data: Path) -> list[Step]:
    """Bags to labelled data sets, one to learn from and one to judge by per task."""
    steps = []
    for task in TASKS:
        for name, sources in ((task, ("train", "live")), (f"heldout_{task}", ("heldout", "heldout_faults"))):
            plain, labelled = data / name, data / f"{name}_labelled"
            inputs = [str(bags / f"{source}_{task}") for source in sources]
            into = ("--output", str(plain), "--fps", FPS, "--image-size", SIZE, "--resume")
            steps.append(Step(f"convert {name}", ("training.convert_rosbags", "--input", *inputs, *into), plain))
            arguments = ("--input_dataset", str(plain), "--output_dataset", str(labelled), "--method", "milestone")
            arguments = ("training.add_progress_labels", *arguments, "--failures", "last-milestone")
            steps.append(Step(f"label {name}", arguments, labelled))
    return steps


def training(data: Path, runs: Path) -> Step:
    """One hour of two cores."""
    sets = ",".join(str(data / f"{task}_labelled") for task in TASKS)
    arguments = ("training.train", "--config=tiny_demo", f"--exp_name={RUN}", f"--output={runs}", "--resume",
                 f"--data.repo_id={sets}", f"--data.cache={data / 'cache'}")  # fmt: skip
    return Step("train", arguments, runs / "tiny_demo" / RUN / "last", resumes=True)


def ship(step: Path, checkpoint: Path) -> None:
    """The checkpoint of a training step without what only resuming needs; beside it first, then moved into place."""
    beside = checkpoint.with_name(checkpoint.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(step, beside, ignore=shutil.ignore_patterns("train_state", "position.bin", "run.json"))
    if checkpoint.exists():
        shutil.rmtree(checkpoint)
    beside.rename(checkpoint)


def figures(checkpoint: Path, data: Path, out: Path) -> list[Step]:
    """Progress on held-out episodes, and the policy at the wheel."""
    steps = []
    for task in TASKS:
        page = out / f"{task}.html"
        arguments = ("training.evaluate_progress", "--checkpoint", str(checkpoint),
                     "--dataset", str(data / f"heldout_{task}_labelled"),
                     "--train_dataset", str(data / f"{task}_labelled"),
                     "--html", str(page), "--json", str(page.with_suffix(".json")), "--overwrite")  # fmt: skip
        steps.append(Step(f"evaluate {task}", arguments, page))
    driven = out / "driven.json"
    arguments = ("--checkpoint", str(checkpoint), "--episodes", "50", "--json", str(driven), "--overwrite")
    return [*steps, Step("drive", ("pi05_progress_ros.sim.evaluate", *arguments), driven)]


def carry_out(step: Step, only_list: bool) -> None:
    """Run a step unless its result is there.

    Raises:
        SystemExit: it failed; its own words are above.
    """
    words = shlex.join(step.arguments)
    if only_list:
        print(f"python -m {words}")
        return
    if step.result.exists() and not step.resumes:
        print(f"--- {step.name}: {step.result} is there", flush=True)
        return
    print(f"--- {step.name}: python -m {words}", flush=True)
    status = subprocess.call(step.command, cwd=ROOT)
    if status:
        raise SystemExit(f"{step.name} ended with exit status {status}; mended, the same command goes on from here")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo-train", help="folder for everything")
    parser.add_argument("--list", action="store_true", help="print the commands, run none")
    args = parser.parse_args()
    out = args.out.resolve()
    bags, data, runs, checkpoint = out / "bags", out / "data", out / "runs", out / "checkpoint"
    train = training(data, runs)
    for step in [*recordings(bags), *data_sets(bags, data), train]:
        carry_out(step, args.list)
    if not args.list:
        ship(train.result.parent / "best", checkpoint)
    for step in figures(checkpoint, data, out):
        carry_out(step, args.list)
    if not args.list:
        print(f"the checkpoint: {checkpoint}\nlook at {out}/*.html; see it at work: CHECKPOINT={checkpoint} make demo")


if __name__ == "__main__":
    main()
