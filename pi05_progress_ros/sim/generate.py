"""Records simulated episodes into bags, without DDS and as fast as the cores allow.

    python -m pi05_progress_ros.sim.generate --task stack_cubes --episodes 20 --out bags

The scripted expert demonstrates; or the planner, disturbed, in small pictures; or it corrects what a policy does:

    python -m pi05_progress_ros.sim.generate --task lift_cube --episodes 300 --out planned --planner --joint-rate 10 \\
        --picture-rate 10 --image-scale 0.15
    python -m pi05_progress_ros.sim.generate --task lift_cube --episodes 100 --seed 1000 --out corrected --correct \\
        --checkpoint runs/lift/best --picture-rate 10 --joint-rate 10 --image-scale 0.15

One MCAP bag per episode, in a folder named after task and seed, holds what a recording of the live simulated robot
would hold: joint and gripper states (200 Hz), the operator's commands and buttons (100 Hz), images (30 Hz, JPEG), the
state machine, and EpisodeEvents on /episode_event. Episodes that are already there are kept, so a run that was stopped
can be started again. Stamps are simulated time from --start-time on; episode after episode, with a pause in between.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from pi05_progress.errors import INTERRUPTED, UserError
from pi05_progress.files.progress_bar import progress_bar

from ..command_line import read_options
from .episodes.generation import GenerationOptions, finished, generate
from .episodes.options import SUMMARY, facts_path, write_summary

MODULE = "pi05_progress_ros.sim.generate"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = read_options(GenerationOptions, MODULE, __doc__, arguments, GenerationOptions.check)
    if options.overwrite:
        for seed in options.seeds:
            facts_path(options.bag(seed)).unlink(missing_ok=True)
    todo = [seed for seed in options.seeds if not finished(options, seed)]
    if kept := options.episodes - len(todo):
        print(f"{kept} of {options.episodes} episodes are already there and are kept")
    started, simulated = time.monotonic(), 0.0
    with progress_bar(options.task, len(todo), "episodes") as advance:
        try:
            for episode in generate(options, todo) if todo else ():
                simulated += episode.duration_s
                speed = simulated / (time.monotonic() - started)
                advance(1, f"{options.task}, {speed:.1f} x real time")
        except KeyboardInterrupt:
            print("stopped; the same command goes on with what is missing")
            return INTERRUPTED
        except (BrokenProcessPool, OSError, UserError, ValueError) as error:
            print(f"generate: {error}; finished episodes are kept, the same command goes on", file=sys.stderr)
            return 1
    facts = write_summary(options.out)
    successes = sum(f["outcome"] == "success" for f in facts)
    print(f"{len(facts)} episodes in {options.out}, {successes} of them successful; summary in {options.out / SUMMARY}")
    if todo:
        print(f"{simulated:.0f} s of robot time in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
