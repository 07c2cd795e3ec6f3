"""benchmarks/gpu.py as a program: whatever a part does, the file is valid and the other parts run."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import wait_for
from places import ROOT, SUPPORT

PROGRAM = ROOT / "benchmarks/gpu.py"
FORBIDDEN = (
    "pydantic",
    "tyro",
    "grain",
    "av",
    "websockets",
    "wandb",
    "tensorboardX",
    "beartype",
    "tokenizers",
    "rclpy",
)
KEYS = {"name", "median_ms", "p99_ms", "peak_bytes", "roofline_share", "progress"}
WITH_PARTS = """
import sys
sys.path[:0] = [{benchmarks!r}]
import gpu
from gpu_parts.parts import Part
parts = [Part(name, f"benchmark_parts:{{name}}", share) for name, share in {parts!r}]
sys.exit(gpu.main({arguments!r}, parts))
"""


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(SUPPORT), "JAX_PLATFORMS": "cpu", **more}


def start(file, parts, minutes):
    """The program with parts of ``benchmark_parts``, given with their shares of the time."""
    arguments = ["--variant", "tiny", "--json", str(file), "--minutes", str(minutes)]
    code = WITH_PARTS.format(benchmarks=str(ROOT / "benchmarks"), parts=list(parts.items()), arguments=arguments)
    return subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.DEVNULL)


@pytest.mark.long
def test_a_part_that_fails_crashes_hangs_or_lacks_memory_leaves_the_others(tmp_path):
    file = tmp_path / "result.json"
    parts = {
        "fails_after_a_row": 1.0,
        "crashes": 1.0,
        "hangs": 0.01,
        "lacks_memory": 1.0,
        "has_no_time": 1.0,
        "finds_nan": 1.0,
        "good": 1.0,
    }
    assert start(file, parts, minutes=4).wait() == 1, "a part failed"
    result = json.loads(file.read_text())
    about, rows = result["parts"], {row["name"]: row for row in result["rows"]}
    assert {name: part["status"] for name, part in about.items()} == {
        "fails_after_a_row": "failed",
        "crashes": "failed",
        "hangs": "cut off",
        "lacks_memory": "done",
        "has_no_time": "done",
        "finds_nan": "done",
        "good": "done",
    }
    assert about["fails_after_a_row"]["error"] == "ValueError: the card has caught fire"
    assert about["crashes"]["error"] == "killed by SIGSEGV"
    assert rows["before"]["median_ms"] == 2.0, "what was found before the failure is kept"
    assert rows["batch 32"]["error"].startswith("the device's memory is full: RESOURCE_EXHAUSTED")
    assert rows["batch 1"]["median_ms"] == 4.0
    assert rows["too late"]["left_out"] == "time"
    assert (rows["no number"]["median_ms"], rows["no number"]["not_finite"]) == (None, ["median_ms is nan"])
    assert [row["median_ms"] for row in result["rows"] if row["name"] == "made better"] == [2.0]
    assert rows["a figure"] == {
        "part": "good", "name": "a figure", "median_ms": 1.5, "p99_ms": None, "peak_bytes": None,
        "roofline_share": None, "progress": True,
    }  # fmt: skip


def test_when_it_is_told_to_end_the_file_has_what_was_done(tmp_path):
    file = tmp_path / "result.json"
    running = start(file, {"good": 1.0, "hangs": 1.0, "crashes": 1.0}, minutes=10)
    wait_for(lambda: file.exists() and "before it hangs" in file.read_text(), what="the row before it hangs")
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 1
    result = json.loads(file.read_text())
    assert result["parts"]["good"]["status"] == "done"
    assert result["parts"]["hangs"]["error"] == "the program was told to end"
    assert "crashes" not in result["parts"]


def test_parts_for_which_there_is_no_time_are_left_out(tmp_path):
    file = tmp_path / "result.json"
    assert start(file, {"good": 1.0, "crashes": 1.0}, minutes=0.05).wait() == 0
    result = json.loads(file.read_text())
    assert [part["status"] for part in result["parts"].values()] == ["left out", "left out"]


def test_without_devices_the_file_says_why(tmp_path):
    file = tmp_path / "result.json"
    command = [sys.executable, PROGRAM, "--json", file]
    found = subprocess.run(command, env=environment(JAX_PLATFORMS="no_such_platform"), capture_output=True, text=True)
    assert found.returncode == 1
    result = json.loads(file.read_text())
    assert (result["device"], result["rows"]) == (None, [])
    assert "no_such_platform" in result["error"]


def test_a_short_run_measures_and_says_what_it_ran_on(tmp_path):
    file = tmp_path / "result.json"
    command = [sys.executable, PROGRAM, "--variant", "tiny", "--only", "kernels", "--minutes", "20", "--json", file]
    subprocess.run(command, check=True, env=environment(), cwd=tmp_path)
    result = json.loads(file.read_text())
    assert result["device"].startswith("CPU: ")
    assert result["driver"] is None
    assert result["jax"] == result["versions"]["jax"]
    assert {"jaxlib", "flax", "numpy", "python"} <= set(result["versions"])
    (row,) = result["rows"]
    assert set(row) >= KEYS
    assert row["median_ms"] > 0
    profile = row["profile"]
    assert profile["kind"] == "operations of XLA's CPU program, not kernels of a GPU"
    assert len(profile["kernels"]) == 20
    assert 0 < profile["busy_ms"] <= profile["span_ms"]


@pytest.mark.long
def test_all_parts_run_on_a_cpu(tmp_path):
    file = tmp_path / "result.json"
    command = [sys.executable, PROGRAM, "--variant", "tiny", "--minutes", "30", "--json", file]
    subprocess.run(command, check=True, env=environment(), cwd=tmp_path)
    result = json.loads(file.read_text())
    statuses = {name: part["status"] for name, part in result["parts"].items()}
    assert statuses.pop("kernels_single") == "left out", "it is for GPUs"
    assert set(statuses.values()) == {"done"}
    assert all(set(row) >= KEYS for row in result["rows"])
    assert not [row for row in result["rows"] if "error" in row or "left_out" in row]
    assert all(limit["met"] for limit in result["limits"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "expected a number above 0, got 0"),
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--json", "/nowhere/result.json"], "--json: /nowhere is no folder"),
        (["--limit-memory-gb", "nan"], "expected a number above 0, got nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said):
    found = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, env=environment())
    assert found.returncode == 2
    assert said in found.stderr


def test_more_memory_than_the_card_has_is_refused(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'RTX 4090, 24564, 1'\n")
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    found = subprocess.run(
        [sys.executable, PROGRAM, "--limit-memory-gb", "40"], capture_output=True, text=True, env=environment(PATH=path)
    )
    assert found.returncode == 2
    assert "RTX 4090 has 25.8 GB" in found.stderr


def test_it_needs_nothing_that_a_rented_machine_lacks():
    code = f"""
import importlib.abc, pathlib, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"no module named {{name!r}}")
sys.meta_path.insert(0, Refuse())
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import gpu
for file in pathlib.Path({str(ROOT / "benchmarks/gpu_parts")!r}).glob("*.py"):
    importlib.import_module(f"gpu_parts.{{file.stem}}")
from training.recipes.registry import named_recipe
print(named_recipe("pi05_teleavatar_lora").trained)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (found.returncode, found.stdout) == (0, "adapters\n"), found.stderr
