"""This package as ament would have installed it, for tests with the real launch where it is not installed."""

import sys
import tomllib
from pathlib import Path

from places import ROOT

# Instead of a node: writes down how it was started, then waits for its end.
RECORDER = """#!{python}
import json, os, signal, sys
words = sys.argv[1:]
files = [words[i + 1] for i, word in enumerate(words) if word == "--params-file"]
record = {{"arguments": words, "environment": dict(os.environ), "files": {{f: open(f).read() for f in files}}}}
path = os.path.join(os.environ["RECORDS"], os.path.basename(sys.argv[0]) + ".json")
with open(path + ".part", "w") as file:
    json.dump(record, file)
os.replace(path + ".part", path)
signal.sigwait([signal.SIGINT, signal.SIGTERM])
"""
PROGRAM = """#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


def make_prefix(folder: Path, *, recorders: bool = False) -> Path:
    """A prefix with the index entry, launch and config files, and executables; with ``recorders`` in their place."""
    index = folder / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    for name in ("pi05_progress", *(("ros2bag", "rosbag2_storage_mcap") if recorders else ())):
        (index / name).touch()
    for name in ("launch", "config"):
        (folder / "share/pi05_progress" / name).mkdir(parents=True)
        for file in (ROOT / name).glob("*.*"):
            (folder / "share/pi05_progress" / name / file.name).symlink_to(file)
    programs = folder / "lib/pi05_progress"
    programs.mkdir(parents=True)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        text = RECORDER if recorders else PROGRAM
        write_program(programs / name, text.format(python=sys.executable, module=module, function=function))
    if recorders:
        (folder / "bin").mkdir()
        write_program(folder / "bin/ros2", RECORDER.format(python=sys.executable))
    return folder


def write_program(path: Path, text: str) -> None:
    """An executable file."""
    path.write_text(text)
    path.chmod(0o755)
