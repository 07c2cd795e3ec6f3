"""Where configuration and the shipped checkpoint are found."""

import sys

import pytest

from pi05_progress.files import config_files
from pi05_progress.files.config_files import config_folder, shipped_checkpoint


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as if it lay in a site-packages folder beside others', and a ROS prefix."""
    site, prefix = tmp_path / "site", tmp_path / "prefix"
    for folder in (site / "pi05_progress", prefix):
        folder.mkdir(parents=True)
    monkeypatch.setattr(config_files, "__file__", str(site / "pi05_progress/files/config_files.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nothing"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    return site, prefix / "share/pi05_progress"


def test_folders_of_other_packages_are_passed_by(installed):
    site, share = installed
    for folder in (
        site / "config",
        site / "models",
        site / "models/tiny_demo",
        share / "config",
        share / "models/tiny_demo",
    ):
        folder.mkdir(parents=True, exist_ok=True)
    (share / "config/teleavatar.yaml").touch()
    (share / "models/tiny_demo/config.json").touch()
    assert config_folder() == share / "config"
    assert shipped_checkpoint() == share / "models/tiny_demo"


def test_what_is_missing_is_named_with_the_places_and_what_to_do(installed):
    site, share = installed
    with pytest.raises(FileNotFoundError, match="setup file must be sourced") as error:
        shipped_checkpoint()
    assert str(site / "models/tiny_demo") in str(error.value) and str(share / "models/tiny_demo") in str(error.value)
