"""Programs that are marked, so that whatever they leave running is found."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from conftest import PATIENCE_S, wait_for
from places import ROOT

MARK = "PI05_PROGRESS_TEST_RUN"


def left_running(mark):
    """Command lines of the processes that descend from a run, however they are called and whoever their parent is."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            if not zombie and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
    return found


class Run:
    """A program in a session of its own, marked so that all that descends from it can be found."""

    def __init__(self, folder, *arguments, **env):
        self.mark, self.folder = uuid.uuid4().hex, folder
        self.out = open(folder / "out.txt", "w+")  # noqa: SIM115
        environment = {**os.environ, MARK: self.mark, "ROS_LOG_DIR": str(folder / "logs"), **env}
        environment = {name: value for name, value in environment.items() if value is not None}
        self.popen = subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self.out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def text(self):
        self.out.flush()
        return (self.folder / "out.txt").read_text()

    def until(self, text):
        def there():
            assert self.popen.poll() is None, self.text()
            return text in self.text()

        wait_for(there, what=f"the words {text!r}", timeout_s=2 * PATIENCE_S)

    def clear(self):
        """Whatever a failed test has left."""
        self.out.close()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)


@contextlib.contextmanager
def marked_runs(folder):
    """Starts them, each in a folder of its own; all are ended in the end."""
    runs = []

    def start(*arguments, **env):
        own = folder / f"run_{len(runs)}"
        own.mkdir()
        runs.append(Run(own, *arguments, **env))
        return runs[-1]

    try:
        yield start
    finally:
        for each in runs:
            each.clear()
