#!/usr/bin/env python3
"""Run the tests that need PyTorch and LeRobot, with which a test that is skipped has failed: nothing else runs them.

Usage: torch_tests.py [PYTEST ARGUMENT ...], by default all of them; see ``make test-torch``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent / "test"
FILES = ("policy/test_torch_golden.py", "policy/test_torch_policy.py", "policy/test_lerobot_policy.py")


class Skipped:
    """A plugin that collects what was skipped, whole files as well."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest's hooks."""
        if report.skipped:
            self.names.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """See pytest's hooks."""
        if report.skipped:
            self.names.append(report.nodeid)


def main() -> int:
    """Entry point; returns the exit status."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is to be fetched
    skipped = Skipped()
    status = pytest.main(sys.argv[1:] or ["-m", "", *(str(TESTS / name) for name in FILES)], plugins=[skipped])
    if skipped.names:
        print(f"skipped, which is a failure here: {', '.join(skipped.names)}; is the extra torch installed?")
        return 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
