"""ament's linter agrees with ours, where it is installed, as on machines with ROS."""

import pytest
from places import ROOT

ament_flake8 = pytest.importorskip("ament_flake8.main")


def test_ament_flake8_finds_nothing_with_the_projects_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = ["pi05_progress", "pi05_progress_ros", "training", "launch", "scripts", "examples", "benchmarks", "test"]
    status, errors = ament_flake8.main_with_errors(argv=["--config", "setup.cfg", *folders, "setup.py"])
    assert status == 0, "\n".join(errors)
