#!/usr/bin/env python3
"""The demo's checkpoints made anew: data, labels, training, evaluation, driving; ``make demo-train``.

    .venv/bin/python scripts/with_ros.py .venv/bin/python scripts/demo_train.py --model tiny_acting --out out/demo-train

Every step is one of the project's own commands, printed before it runs, and can be stopped: started again, the same
command goes on where it was. What is made from something that has changed is made anew; recordings and training runs,
which take long, are never replaced. --list prints the commands and runs none. The cards of the models, as in
models/tiny_acting/README.md, say what came of them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import tiny_acting_plan
import tiny_demo_plan
from steps import Ship, StepError, carry_out, copied, shown

ROOT = Path(__file__).resolve().parent.parent
PLANS = {"tiny_acting": tiny_acting_plan.plan, "tiny_demo": tiny_demo_plan.plan}


def ship(item: Ship) -> None:
    """Copy the best checkpoint of a run, without what only resuming needs.

    Raises:
        StepError: it cannot be copied, or something else is there.
    """
    from pi05_progress.checkpoints.checkpoint import MARKERS
    from pi05_progress.files.output_folder import OutputFolderError

    try:
        new = copied(item.run / "best", item.checkpoint, MARKERS, ("train_state", "position.bin", "run.json"))
    except (OutputFolderError, OSError) as error:
        raise StepError(f"ship: {error}") from error
    print(f"--- ship: {item.checkpoint} is {'made from' if new else 'still'} the best of {item.run}", flush=True)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PLANS, default="tiny_acting", help="the one that drives, or the judge")
    parser.add_argument("--out", type=Path, help="folder for everything (default: out/demo-train/MODEL)")
    parser.add_argument("--list", action="store_true", help="print the commands, run none")
    args = parser.parse_args()
    out = (args.out or ROOT / "out" / "demo-train" / args.model).resolve()
    plan = PLANS[args.model](out)
    if args.list:
        print(f"OUT={shlex.quote(str(out))}")
        for item in plan:
            if isinstance(item, Ship):
                run, checkpoint = (
                    shown([str(path)], out).removeprefix("python ") for path in (item.run, item.checkpoint)
                )
                print(f"# then the best of {run} becomes {checkpoint}")
            else:
                print(shown(item.arguments, out))
        return 0
    try:
        for item in plan:
            if isinstance(item, Ship):
                ship(item)
            else:
                carry_out(item, out, ROOT)
    except StepError as error:
        print(error, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:  # between two commands
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return 1
    mode = "watch" if args.model == "tiny_demo" else "policy"
    print(
        f"what came of it: {out}/*.html and *.json; see it at work: DEMO={mode} CHECKPOINT={out}/checkpoint make demo"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
