"""Fine-tunes Pi0.5 on actions and progress, or trains a small model from scratch.

    python -m training.train --config=pi05_teleavatar --exp_name=first --data.repo_id=/data/stack --checkpoint=/base
    python -m training.train --config=pi05_teleavatar --exp_name=first --data.repo_id=/data/stack --resume
    python -m training.train --config=pi05_teleavatar --plan
    python -m training.train --help

The whole way, from recordings to a running robot: docs/training.md.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import jax

from pi05_progress.errors import UserError, run_program
from pi05_progress.policies.compilation_cache import use_compilation_cache

from .engine.memory import claim_memory
from .engine.sharding import start_processes
from .recipes.config import TrainConfig
from .running import command_line
from .running.checkpoints import RunCheckpoints
from .running.console import Console
from .running.logs import Logs
from .running.loop import Ended, Loop, owes_validation
from .running.setup import open_folder, prepare
from .running.signals import SIGNALS, StopRequest

# Exit statuses of a run that was stopped before it was done, so that a scheduler starts it again: 128 + the signal, as
# shells have it, or EX_TEMPFAIL of sysexits.h.
STOPPED = {signal.name: 128 + signal for signal in SIGNALS}
STOPPED_BY_ANOTHER = 75


def train(config: TrainConfig) -> Ended:
    """Train as configured; returns when all steps are taken, or after a signal."""
    claim_memory(os.environ)
    use_compilation_cache()
    start_processes(config.mesh)
    with Console(config.num_train_steps) as console:
        run = prepare(config, console.say)
        with run.loader, open_folder(run), RunCheckpoints(run.folder, config.keep_period) as checkpoints:
            owed = owes_validation(run.begin, config.validation_interval)
            if run.begin.step >= config.num_train_steps and not owed:
                return Ended(run.begin.step, "")
            about = {"name": f"{config.name}/{config.exp_name}", "resolved": run.resolved, "step": run.begin.step}
            logged = Logs(run.folder.root, config.logs, **about, validates=owed) if _first() else nullcontext()
            with logged as logs, StopRequest() as stop:
                return Loop(run, logs, console, checkpoints, stop).run()


def _first() -> bool:
    return jax.process_index() == 0


def how_to_go_on(arguments: Sequence[str]) -> str:
    """The command that goes on with this run."""
    given = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    return f"{command_line.PROGRAM} {shlex.join([*given, '--resume'])}"


def exit_status(ended: Ended) -> int:
    """0 only if nothing is left to do: a scheduler takes a run that ends with it for complete."""
    return STOPPED.get(ended.stopped_by, STOPPED_BY_ANOTHER) if ended.stopped_by else 0


def main() -> int:
    """Parse the command line, train, say how it ended; returns the exit status: 1 for errors, 2 for wrong usage."""
    arguments = sys.argv[1:]
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs pages about errors that it raises anyway
    return run_program(lambda: _train_and_print(arguments), kept="checkpoints that were complete are kept")


def _train_and_print(arguments: Sequence[str]) -> int:
    config = command_line.parse(arguments)
    if config.plan:
        print(command_line.plan(config))
        return 0
    try:
        ended = train(config)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device's memory is full: {str(error).splitlines()[0]}. See what is needed with --plan; "
            "--optimizer.accumulation_steps, --mesh.fsdp_devices and smaller --batch_size need less"
        ) from error
    if _first() and ended.stopped_by:
        print(f"stopped by {ended.stopped_by}: step {ended.step} is saved. Go on with:\n  {how_to_go_on(arguments)}")
    elif _first():
        print(f"done: {ended.step} steps")
    return exit_status(ended)


if __name__ == "__main__":
    sys.exit(main())
