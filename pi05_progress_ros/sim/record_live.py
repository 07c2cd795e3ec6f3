"""Records the scripted operator's episodes as one records a person's: over DDS, in real time, with the recorder node.

    python -m pi05_progress_ros.sim.record_live --task stack_cubes --episodes 10 --out recordings --fault gives_up:1 \\
        --fault-share 0.3

The simulated robot and the recorder are processes of their own. This program is the assistant beside the operator: it
starts and ends the recorder's episodes and marks milestones, through the recorder's services, when the simulation says
that they happened. Bags are the recorder's; beside each lies a JSON file with what the simulation knows of it, and
episodes.json has all of them. Episodes that are already there are kept: the same command goes on with what is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pi05_progress.errors import INTERRUPTED, UserError, run_program

from ..command_line import read_options
from ..starting.domains import make_log_folder, own_variables
from ..starting.processes import Process
from ..starting.supervisor import Supervisor, on_end_signals, session_environment
from .episodes.assistant import Assistant
from .episodes.options import SUMMARY, EpisodeOptions, read_facts, write_summary

MODULE = "pi05_progress_ros.sim.record_live"
KEPT = "finished episodes are kept, the same command goes on with what is missing"


@dataclass(frozen=True)
class Options(EpisodeOptions):
    """Command line."""

    image_scale: float = 0.2
    """Image size as a share of the real cameras'; raw images take space."""


def processes(options: Options, seeds: range) -> tuple[Process, Process]:
    """The recorder and the simulated robot with its operator."""
    recorder = Process(
        "recorder",
        module="pi05_progress_ros.recorder_node",
        parameters={"robot": options.profile, "output": str(options.out)},
    )
    robot = Process(
        "simulated_robot",
        module="pi05_progress_ros.sim.robot_node",
        parameters={
            "profile": options.profile,
            "task": options.task,
            "seed": seeds[0],
            "expert": True,
            "expert_episodes": len(seeds),
            "image_scale": options.image_scale,
            "faults": [*options.fault] or [""],
            "fault_share": options.fault_share,
        },
    )
    return recorder, robot


def missing(options: Options) -> list[range]:
    """Runs of seeds that are not recorded yet; the simulated robot counts up by itself within each."""
    there = {facts["seed"] for facts in read_facts(options.out) if facts["task"] == options.task}
    runs: list[range] = []
    for seed in options.seeds:
        if seed in there:
            continue
        if runs and runs[-1].stop == seed:
            runs[-1] = range(runs[-1].start, seed + 1)
        else:
            runs.append(range(seed, seed + 1))
    return runs


def record(options: Options, seeds: range) -> int:
    """Record the episodes of these seeds; returns the exit status."""
    variables = own_variables(os.environ)
    os.environ |= variables
    logs = make_log_folder(os.environ)
    print(f"ROS domain {variables['ROS_DOMAIN_ID']}, logs {logs}; {len(seeds)} episodes in real time", flush=True)
    with Supervisor({**session_environment(), **variables}, logs) as supervisor:
        children = [supervisor.start(process) for process in processes(options, seeds)]

        def check() -> None:
            if ended := supervisor.ended():
                child = ended[0]
                raise UserError(f"{child.process.name} ended, {child.how_it_ended()}; {KEPT}:\n{child.last_words()}")

        files = ", ".join(str(child.log) for child in children)
        assistant = Assistant(options, seeds, check, files, lambda text: print(text, flush=True))
        on_end_signals(lambda _: setattr(assistant, "interrupted", True))
        try:
            assistant.run()
        finally:
            assistant.close()
    if assistant.interrupted:
        print(f"stopped; {KEPT}")
        return INTERRUPTED
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = read_options(Options, MODULE, __doc__, arguments, Options.check)
    return run_program(lambda: _run(options), name="record_live", kept=KEPT)


def _run(options: Options) -> int:
    runs = missing(options)
    kept = len(options.seeds) - sum(len(seeds) for seeds in runs)
    if kept:
        print(f"{kept} of {len(options.seeds)} episodes are already there and are kept")
    status = 0
    for seeds in runs:
        if status := record(options, seeds):
            break
    facts = write_summary(options.out)
    successes = sum(f["outcome"] == "success" for f in facts)
    print(f"{len(facts)} episodes in {options.out}, {successes} successful; summary in {options.out / SUMMARY}")
    return status


if __name__ == "__main__":
    sys.exit(main())
