"""Validation at the wheel: the policy of a checkpoint drives the simulated robot, in a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from pi05_progress.errors import UserError
from pi05_progress.files.json_file import read_json

PROGRAM = "pi05_progress_ros.sim.evaluate"
FIRST_SEED = 700_000  # below those that are kept for evaluation, above those that data are made of
FOLDER = "driven"  # of a run, for what the episodes were like
SIMULATED = ("success", "milestones")  # numbers by which a checkpoint may be the best


def check_simulation(arguments: str) -> None:
    """Refuse a run that is to be validated in simulation where there is none, or with arguments that are wrong."""
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UserError(f"--sim_arguments {arguments!r}: {error}; quote it as for a shell") from error
    if any(word.split("=")[0] in ("--seed", "--checkpoint", "--json") for word in words):
        raise UserError(f"--sim_arguments {arguments!r}: seed, checkpoint and file are the run's own; leave them out")
    found = subprocess.run([sys.executable, "-c", f"import {PROGRAM}"], capture_output=True, text=True)
    if found.returncode:
        why = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"--sim_validation_every needs ROS and the simulation, which cannot be used here ({why}): install them "
            "with `make setup`, start by scripts/with_ros.py where ROS is sourced, or leave the option out"
        )


def driven(folder: Path, step: int) -> bool:
    """Whether the checkpoint of a step has driven."""
    return (folder / f"{step}.json").exists()


def drive(checkpoint: Path, folder: Path, episodes: int, arguments: str) -> dict[str, float]:
    """Let a checkpoint drive; the numbers are for the logs, all episodes are in ``<folder>/<step>.json``."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{checkpoint.name}.json"
    command = [sys.executable, "-m", PROGRAM, "--checkpoint", str(checkpoint), "--episodes", str(episodes)]
    command += ["--seed", str(FIRST_SEED), "--json", str(path), "--overwrite", *shlex.split(arguments)]
    # The device's memory is the training's.
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    if done.returncode:
        raise UserError(f"validation in simulation: {shlex.join(command)} failed: {done.stderr.strip()[-2000:]}")
    figures = read_json(path)["figures"]
    total = figures.get("total") or next(iter(figures.values()))
    numbers = {"success": total["success"]["share"], "milestones": total["milestones"]}
    numbers |= {f"success/{task}": of["success"]["share"] for task, of in figures.items() if task != "total"}
    if total["progress_error_at_end"] is not None:
        numbers["progress_error_at_end"] = total["progress_error_at_end"]
    return numbers
