"""Everything that is imported is declared, where those who install a part of the project find it; nothing else is."""

import ast
import functools
import importlib.metadata
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {
    "ffmpeg_image_transport_msgs",
    "pi05_progress",
    "pi05_progress_msgs",
    "pi05_progress_ros",
    "tf2_msgs",
    "training",
}
# Scripts, benchmarks and tests import their neighbours by name.
NEIGHBOURS = {e.stem for folder in ("scripts", "benchmarks", "test") for e in (ROOT / folder).rglob("*")}
# What a folder or program may import when it is loaded: the project's dependencies and these extras. A function may
# import what any extra has: whoever calls it is told what is missing.
ROOMS = {
    "pi05_progress": (),
    "pi05_progress/policies/torch_policy.py": ("torch",),
    "pi05_progress_ros": ("ros",),
    "pi05_progress_ros/sim": ("ros", "sim"),
    "training": ("train",),
    "training/bags": ("data",),
    "training/datasets": ("data",),
    "training/labels": ("data",),
    "training/report": ("data",),
    "training/convert_rosbags.py": ("data",),
    "training/add_progress_labels.py": ("data",),
    "training/compute_norm_stats.py": ("data",),
    "training/inspect_dataset.py": ("data",),
    "scripts": ("ros", "sim", "data", "train", "dev"),
    "benchmarks": ("ros", "sim", "data", "train", "dev"),
}
FROM_ROS_ONLY = {"launch", "launch_ros", "cv_bridge"}  # no package of Python's: there where ROS is installed
MODULES = {"huggingface-hub": "huggingface_hub", "rerun-sdk": "rerun", "torch": "torch", "lerobot": "lerobot"}


@functools.cache
def distributions():
    """What provides each module: installed packages, and those that are imported only where they are."""
    found = {
        module: {canonicalize_name(name) for name in names}
        for module, names in importlib.metadata.packages_distributions().items()
    }
    return found | {module: {name} for name, module in MODULES.items()}


@functools.cache
def declared(extras):
    """Names of the packages that the project and some of its extras ask for."""
    optional = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(r for extra in extras for r in optional[extra])]
    return {canonicalize_name(Requirement(r).name) for r in wanted}


def provides(module, extras):
    """Whether one of the declared packages has a module; wheels of ROS are named after what they hold."""
    providers = distributions().get(module, set()) | {f"ros-jazzy-{canonicalize_name(module)}"}
    return bool(providers & declared(extras))


@functools.cache
def imports(path):
    """Third-party modules that a file imports, each with whether that is when the file is loaded."""

    def modules(node):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module

    def walk(node, loaded):
        for child in ast.iter_child_nodes(node):
            inside = loaded and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from ((name.split(".")[0], inside) for name in modules(child))
            yield from walk(child, inside)

    ours = sys.stdlib_module_names | OWN | FROM_ROS_ONLY
    if any((ROOT / folder) in path.parents for folder in ("scripts", "benchmarks", "test")):
        ours |= NEIGHBOURS
    return sorted({found for found in walk(ast.parse(path.read_text()), True) if found[0] not in ours})


def room(path):
    """Extras of the innermost room that a file lies in."""
    parts = path.relative_to(ROOT).parts
    names = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(ROOMS[name] for name in names if name in ROOMS)


FILES = [path for name in ("pi05_progress", "pi05_progress_ros", "training", "scripts", "benchmarks")
         for path in sorted((ROOT / name).rglob("*.py"))]  # fmt: skip


def test_what_a_file_imports_is_declared_for_its_room():
    missing = [
        f"{path.relative_to(ROOT)}: {module} is declared neither in dependencies nor in {room(path)}"
        for path in FILES
        for module, loaded in imports(path)
        if not provides(module, room(path) if loaded else tuple(PROJECT["optional-dependencies"]))
    ]
    assert not missing


def test_what_tests_import_is_declared():
    tests = sorted((ROOT / "test").rglob("*.py"))
    foreign = {"openpi_client", "launch_testing"}  # skipped where it is not there
    missing = {
        module
        for path in tests
        for module, _ in imports(path)
        if not provides(module, tuple(PROJECT["optional-dependencies"]))
    }
    assert not sorted(missing - foreign)


def test_a_missing_declaration_is_noticed(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import numpy\nimport optax\n\ndef f():\n    import av\n")
    assert imports(path) == [("av", False), ("numpy", True), ("optax", True)]
    assert provides("numpy", ()) and provides("optax", ("train",)) and not provides("optax", ("data",))


@pytest.mark.parametrize(
    "extras", [(), ("sim",), ("data",), ("train",), ("hub",), ("rerun",)], ids=lambda e: "+".join(e)
)
def test_what_is_declared_is_imported(extras):
    known, used = distributions(), {module for path in FILES for module, _ in imports(path)}
    providers = set().union(*(known.get(module, {canonicalize_name(module)}) for module in used))
    assert not declared(extras) - providers


def test_the_ros_package_names_what_its_nodes_import():
    depends = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    modules = {m for path in FILES if Path(ROOT, "pi05_progress_ros") in path.parents for m, _ in imports(path)}
    from_wheels = {m for m in modules if f"ros-jazzy-{canonicalize_name(m)}" in declared(("ros",))}
    assert {canonicalize_name(m) for m in from_wheels} <= {canonicalize_name(name) for name in depends}
