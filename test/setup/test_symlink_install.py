"""``colcon build --symlink-install`` builds where setup.py and the packages are linked to, but not pyproject.toml."""

import json
import subprocess
import sys
import tomllib

from places import ROOT

TELL = """
import json, setuptools
from distutils.core import run_setup
found = run_setup("setup.py", stop_after="config")
print(json.dumps([found.get_name(), found.get_version(), sorted(found.packages), found.entry_points]))
"""


def test_setup_py_alone_knows_name_packages_and_programs(tmp_path):
    for name in ("setup.py", "setup.cfg", "pi05_progress", "pi05_progress_ros", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    run = subprocess.run([sys.executable, "-c", TELL], cwd=tmp_path, capture_output=True, text=True, check=True)
    name, version, packages, entry_points = json.loads(run.stdout.splitlines()[-1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (name, version) == ("pi05_progress", project["version"])
    assert {"pi05_progress.robots", "pi05_progress_ros.node", "training.bags"} <= set(packages)
    assert {package.partition(".")[0] for package in packages} == {"pi05_progress", "pi05_progress_ros", "training"}
    assert sorted(entry_points["console_scripts"]) == [f"{n} = {w}" for n, w in sorted(project["scripts"].items())]
