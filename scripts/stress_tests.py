#!/usr/bin/env python3
"""Run the tests of live processes while every core is busy with other work, several times, and count who passes.

What each round found is added to a file outside the checkout: the table that is printed at the end counts all rounds
that were ever added to it. Delete the file to begin anew.

Usage: stress_tests.py [--rounds N] [PYTEST ARGUMENT ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from run_tests import LIVE, SHORT, to_its_end

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 2  # pytest's exit status after Ctrl-C
# Ends with its parent, also if that is killed.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


def results_file() -> Path:
    """Where rounds are added up: the folder of the user for what programs keep."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "pi05_progress/stress_tests.jsonl"


def commit() -> str:
    """The checkout's commit, with a + if files were changed since."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy at normal priority."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def outcomes(report: Path) -> dict[str, bool]:
    """Whether each test of a JUnit report passed; those that were skipped are left out."""
    found: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            name = f"{case.get('classname')}::{case.get('name')}"
            found[name] = found.get(name, True) and not kinds & {"failure", "error"}
    return found


def run_round(arguments: list[str]) -> dict[str, bool]:
    """Run all live tests once on busy cores; returns whether each passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        live = [*LIVE, "-m", f"{SHORT}live", f"--junitxml={report}"]
        with busy_cores():
            status = to_its_end([sys.executable, "-m", "pytest", *live, *arguments], cwd=ROOT)
        if status == INTERRUPTED:
            print("stopped; this round is not counted", file=sys.stderr)
            sys.exit(130)
        if status not in (0, 1) or not report.exists():
            raise SystemExit(f"stress_tests: pytest ended with status {status}; this round is not counted")
        return outcomes(report)


def table(rounds: list[dict]) -> str:
    """Passes and failures over all rounds of the tests that the newest round ran, the worst first."""
    passed, failed = (Counter(name for r in rounds for name in r[key]) for key in ("passed", "failed"))
    names = {*rounds[-1]["passed"], *rounds[-1]["failed"]}
    rows = [
        f"{passed[name]:6} {failed[name]:6}  {name}"
        for name in sorted(names, key=lambda name: (-failed[name], passed[name], name))
    ]
    of = ", ".join(f"{count} of {name}" for name, count in Counter(r["commit"] for r in rounds).items())
    least = min((passed[name] for name in names), default=0)
    summary = f"{len(rounds)} rounds ({of}): {sum(failed[n] for n in names)} failures, at least {least} passes per test"
    return "\n".join(["passed failed", *rows, summary])


def main() -> int:
    """Entry point; returns the exit status: 0 if no test failed in the rounds of this call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often (default: %(default)s)")
    options, arguments = parser.parse_known_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: expected at least 1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the project anew
    path, failures = results_file(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, options.rounds + 1):
        began_s, tested = time.time(), commit()
        print(f"round {number} of {options.rounds}, commit {tested}, on {os.cpu_count()} busy cores", flush=True)
        found = run_round(arguments)
        record = {
            "commit": tested,
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began_s)),
            "seconds": round(time.time() - began_s),
            "passed": [name for name, good in found.items() if good],
            "failed": [name for name, good in found.items() if not good],
        }
        failures += len(record["failed"])
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    print(table([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]))
    print(f"added up in {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
