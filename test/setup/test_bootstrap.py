"""The set-up script: finding a Python that runs, repairing the wheels, saying what is missing."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts/bootstrap.py")
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def real_python() -> str:
    """The interpreter the virtual environment was made from; it has ensurepip."""
    return str(Path(sys.base_prefix) / "bin/python3.12")


def test_a_shim_that_fails_is_passed_over(tmp_path, monkeypatch):
    executable(tmp_path / "shims/python3.12", "#!/bin/sh\necho 'python3.12: command not found' >&2\nexit 127\n")
    good = executable(tmp_path / "pyenv/versions/3.12.1/bin/python3.12", f'#!/bin/sh\nexec {real_python()} "$@"\n')
    monkeypatch.setattr(bootstrap.sys, "executable", "/nonexistent")
    env = {"PATH": str(tmp_path / "shims"), "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "pyenv")}
    assert bootstrap.find_python(env) == good


def test_no_python_names_what_was_tried_and_what_to_install(tmp_path, monkeypatch):
    shim = executable(tmp_path / "python3.12", "#!/bin/sh\nexit 127\n")
    monkeypatch.setattr(bootstrap.sys, "executable", "/nonexistent")
    with pytest.raises(bootstrap.SetupError) as error:
        bootstrap.find_python({"PATH": str(tmp_path), "HOME": str(tmp_path)})
    assert str(shim) in str(error.value)
    assert "apt install python3.12" in str(error.value)


def test_python_variable_wins_and_must_exist(tmp_path):
    with pytest.raises(bootstrap.SetupError, match="PYTHON=nowhere"):
        bootstrap.find_python({"PATH": "", "PYTHON": "nowhere"})
    assert bootstrap.find_python({"PATH": "", "PYTHON": real_python()}) == Path(real_python())


def test_wheel_cmake_paths_are_repaired_once(tmp_path):
    cmake = tmp_path / "rosidl_generator_py/cmake/exportExport.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text('A "/build/cp312-cp312/include/python3.12;/build/x/numpy/core/include;/keep/include/rcl"\n')
    assert bootstrap.repair_wheel_cmake_paths(tmp_path, "/here/include", "/here/numpy") == 1
    assert cmake.read_text() == 'A "/here/include;/here/numpy;/keep/include/rcl"\n'
    assert bootstrap.repair_wheel_cmake_paths(tmp_path, "/here/include", "/here/numpy") == 0


def test_wheel_repair_is_stable_for_real_include_folders(tmp_path):
    """The replacement matches the pattern again; repairing twice must not change it."""
    cmake = tmp_path / "p/cmake/a.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text('"/build/include/python3.12" "/build/numpy/_core/include"')
    args = (tmp_path, "/usr/include/python3.12", "/venv/numpy/_core/include")
    assert bootstrap.repair_wheel_cmake_paths(*args) == 1
    assert bootstrap.repair_wheel_cmake_paths(*args) == 0


def test_messages_of_others_are_built_only_where_ros_has_none(tmp_path):
    names = lambda *prefixes: [path.name for path in bootstrap.missing_packages([str(p) for p in prefixes])]  # noqa: E731
    assert names() == names(tmp_path) == ["pi05_progress_msgs", "ffmpeg_image_transport_msgs", "tf2_msgs"]
    (tmp_path / "share/ffmpeg_image_transport_msgs").mkdir(parents=True)
    assert names("/elsewhere", tmp_path) == ["pi05_progress_msgs", "tf2_msgs"]


def test_another_ros_distribution_is_refused():
    with pytest.raises(bootstrap.SetupError, match="humble is sourced"):
        bootstrap.sourced_ros({"ROS_DISTRO": "humble"}, Path(sys.executable))


def test_sourced_ros_without_rclpy_for_this_python_says_what_to_do(tmp_path):
    python = executable(tmp_path / "python", "#!/bin/sh\necho 'No module named rclpy' >&2\nexit 1\n")
    with pytest.raises(bootstrap.SetupError, match="unset ROS_DISTRO"):
        bootstrap.sourced_ros({"ROS_DISTRO": "jazzy"}, python)


def test_missing_debian_packages_print_the_exact_line_when_not_root(monkeypatch):
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.SetupError) as error:
        bootstrap.install_debian(("libegl1", "libosmesa6"), "rendering needs them")
    assert "sudo apt-get install -y --no-install-recommends libegl1 libosmesa6" in str(error.value)


def test_unknown_extra_is_refused_with_the_known_ones():
    command = [sys.executable, str(ROOT / "scripts/bootstrap.py"), "--extras", "ros,gpu"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "unknown extra gpu; known: ros, sim, data, train" in result.stderr


def test_lock_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--hash=sha256:" in lock


def test_every_dependency_is_locked():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    pins = (line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    locked = {canonicalize_name(pin.split("[")[0]) for pin in pins}
    assert {canonicalize_name(Requirement(r).name) for r in wanted} <= locked
