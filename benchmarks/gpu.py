"""What an NVIDIA machine does with the full-size model: correct, how fast, where the time goes, start, training.

    python benchmarks/gpu.py --json result.json
    python benchmarks/gpu.py --json result.json --minutes 12 --only inference kernels
    python benchmarks/gpu.py --json result.json --limit-memory-gb 24
    python benchmarks/gpu.py --variant tiny
    python benchmarks/gpu.py --page benchmarks/results/*.json

It runs from a bare checkout, without a network, data or a checkpoint: random parameters are made on the device. Every
part is a process of its own, and what it finds is in the file at once; a part that fails or hangs leaves the others.
Parts, in order of worth: {parts}. The exit status is 1 if any part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing of the project need be installed

from gpu_parts.parts import PARTS, Ended, Part, child_environment, end_when_told, run_parts
from gpu_parts.processes import ProcessError, Task, messages
from gpu_parts.record import Record

from pi05_progress.errors import UserError
from pi05_progress.policies.device_memory import claim

ROOT = Path(__file__).resolve().parents[1]
MINUTES = {"pi05": 8.0, "tiny": 3.5}
PAGE = ROOT / "docs/gpu.md"
NO_FACTS = {"device": None, "platform": None, "bytes_limit": None}
FACTS_S = 180.0  # that JAX has to find its devices


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Entry point; returns the exit status."""
    begun = time.time()
    args = parse(arguments, parts)
    if args.task:
        run_as_child(args.task, args.pipe)
    if args.page:
        from gpu_parts.page import write_page

        write_page(PAGE if args.page_at is None else args.page_at, args.page)
        return 0
    environment = child_environment()
    try:
        memory = claim(args.limit_memory_gb or 0.0, environment)
    except UserError as error:
        print(f"--limit-memory-gb: {error}", file=sys.stderr)
        return 2
    end_when_told()
    try:
        facts = device_facts(environment)
        on_cpu = facts["platform"] == "cpu"
        if memory.card is not None and on_cpu and not args.variant and not os.environ.get("JAX_PLATFORMS"):
            raise ProcessError(f"{memory.card.name} is there, but JAX computes on the CPU: its CUDA plugin is missing")
        variant = args.variant or ("tiny" if on_cpu else "pi05")
        if args.limit_memory_gb and (memory.fraction is None or on_cpu):
            print("--limit-memory-gb has no effect: no GPU whose memory is known", flush=True)
        record = Record(args.json, variant, facts, memory.card, args.limit_memory_gb)
        chosen = [part for part in parts if not args.only or part.name in args.only]
        minutes = args.minutes or MINUTES[variant]
        print(f"{record.data['device']}, JAX {record.data['jax']}, {variant}, {minutes:g} minutes", flush=True)
        run_parts(chosen, record, variant=variant, minutes=minutes, begun=begun, environment=environment)
    except ProcessError as error:
        problem = f"JAX does not find its devices: {error}"
        print(problem, file=sys.stderr)
        Record(args.json, args.variant, NO_FACTS, memory.card, args.limit_memory_gb, problem)
        return 1
    except Ended as ended:
        print(f"ended by {ended}; what was done is in the file", file=sys.stderr)
        return 1
    for limit in record.data["limits"]:
        met = "met" if limit["met"] else f"MISSED; it takes {limit.get('takes_bytes')}"
        print(f"{limit['name']}: {limit['found_gb']:.2f} GB, below {limit['limit_gb']} GB: {met}")
    for name, about in record.data["parts"].items():
        print(f"{name:<16} {about['status']} {about.get('error', '')}")
    return 1 if record.failed else 0


def parse(arguments: Sequence[str] | None, parts: Sequence[Part]) -> argparse.Namespace:
    """The command line."""
    names = [part.name for part in parts]
    about = (__doc__ or "").replace("{parts}", ", ".join(names))
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are written, after every row")
    text = "size of the model (default: pi05 on a GPU; tiny on a CPU, where pi05 makes one inference in minutes)"
    parser.add_argument("--variant", choices=MINUTES, help=text)
    text = "time for all of it; what does not fit is left out and says so (default: 8; tiny: 3.5)"
    parser.add_argument("--minutes", type=_positive, help=text)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="these parts alone")
    text = "GB of the card's memory that JAX may take, as if it had no more (default: all but 4)"
    parser.add_argument("--limit-memory-gb", type=_positive, metavar="N", help=text)
    text = "measure nothing; write docs/gpu.md from these results"
    parser.add_argument("--page", nargs="+", type=Path, metavar="FILE", help=text)
    parser.add_argument("--page-at", type=Path, metavar="FILE", help="where --page writes (default: docs/gpu.md)")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--pipe", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: {args.json.parent} is no folder")
    return args


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def device_facts(environment: dict[str, str]) -> dict[str, object]:
    """What JAX computes on, asked in a process that is gone again: this one must not take the device's memory."""
    quiet = "TF_CPP_MIN_LOG_LEVEL"  # why there is no GPU is said in the log that other processes keep to themselves
    environment = {**environment, quiet: os.environ.get(quiet, "0")}
    task = Task("gpu_parts.context:facts", "tiny", time.time() + FACTS_S)
    problem, found = "", {}
    try:
        for message in messages(task, time.time() + FACTS_S, environment):
            problem, found = message.get("error", problem), message.get("facts", found)
    except ProcessError as error:
        raise ProcessError(problem or str(error)) from error
    return found


def run_as_child(task: str, pipe: int) -> None:
    """Do one task and end at once: programs that are still being compiled are not waited for."""
    from gpu_parts.context import run_task

    status = run_task(Task(**json.loads(task)), pipe)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
