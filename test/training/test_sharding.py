"""Arrays spread over devices and processes: openpi's rule, and numbers that do not depend on it."""

import ast
import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from places import GOLDEN, ROOT, SUPPORT
from small_models import SMALL
from training_cases import FAST, Run, made_up_batch, quick_compiling

from pi05_progress.errors import UserError
from pi05_progress.models.config import pi05
from pi05_progress.models.parameters import parameter_shapes
from training.engine.sharding import MeshConfig, make_mesh, partition

SPECS = json.loads((GOLDEN / "fsdp_specs.json").read_text())
METRICS = ("loss", "action_loss", "progress_loss")


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_every_parameter_of_the_full_model_lies_where_openpi_puts_it(fsdp):
    shapes = parameter_shapes(pi05().with_progress("none"))
    ours = {path: list(partition(leaf.shape, leaf.dtype, fsdp)) for path, leaf in shapes.items()}
    assert ours == SPECS[str(fsdp)]


def test_edge_cases_of_the_rule_are_openpi_s_too():
    for shape, expected in SPECS["extra_fsdp4"].items():
        assert list(partition(ast.literal_eval(shape), np.float32, 4)) == expected, shape


def test_the_dtype_decides_what_is_small():
    assert list(partition((1024, 1024), np.float32, 4)) == [None, "fsdp"]
    assert list(partition((1024, 1024), jax.numpy.bfloat16, 4)) == []


def test_a_mesh_that_cannot_be_made_is_refused():
    with pytest.raises(UserError, match="fsdp_devices is 3, but there are 4 devices"):
        make_mesh(MeshConfig(fsdp_devices=3), [jax.devices()[0]] * 4)
    with pytest.raises(UserError, match=r"mesh\.fsdp_devices is 0"):
        MeshConfig(fsdp_devices=0)
    with pytest.raises(UserError, match="belong together"):
        MeshConfig(distributed=True, coordinator="first:1234")
    with pytest.raises(UserError, match="belong together"):
        MeshConfig(coordinator="first:1234", processes=2, process_index=0)
    with pytest.raises(UserError, match="process_index is 2; expected 0 to 1"):
        MeshConfig(distributed=True, coordinator="first:1234", processes=2, process_index=2)


def reference(steps, optimizer=FAST, augment=False):
    """Metrics of one device, in this process."""
    with quick_compiling():
        run = Run(optimizer=optimizer, source=None, augment=augment)
        return [run(made_up_batch(seed=number)) for number in range(steps)]


def spread(steps, *, devices, fsdp, processes=1, source=False, optimizer=FAST, augment=False, timeout_s=280):
    """Reports of a run's processes, each of them with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    given = {"fsdp": fsdp, "steps": steps, "processes": processes, "port": port, "source": source, "augment": augment}
    given["optimizer"] = dataclasses.asdict(optimizer)
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # nearly all the time is compiling
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(SUPPORT / "sharded_run.py")]
    running = [
        subprocess.Popen(
            [*command, json.dumps(given | {"index": index})],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        results = [process.communicate(timeout=timeout_s) for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(error[-3000:] for _, error in results)
    return [json.loads(out.splitlines()[-1]) for out, _ in results]


def check(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        for name in METRICS:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


@pytest.mark.long  # processes that compile at different speeds, as on a busy machine, miss Gloo's limit of 30 s
def test_two_processes_of_four_devices_each_give_the_losses_of_one_device():
    first, second = spread(3, devices=4, fsdp=4, processes=2)
    assert (first["devices"], first["processes"]) == (8, 2)
    assert first["losses"] == second["losses"]
    check(first["losses"], reference(3))
    assert first["bytes_on_a_device"] < 0.5 * first["bytes"]


# Rounding grows with every step, the more the larger steps are: at the other tests' tenfold rate to 1e-3 in twenty.
GENTLE = dataclasses.replace(FAST, peak_learning_rate=1e-3)
LAYOUTS = [
    {"devices": 8, "fsdp": 1},
    {"devices": 8, "fsdp": 8},
    {"devices": 8, "fsdp": 4},
    {"devices": 4, "fsdp": 2, "processes": 2},
]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_twenty_steps_give_the_losses_of_one_device_however_they_are_spread(layout):
    found = spread(20, **layout, optimizer=GENTLE, augment=True, timeout_s=850)
    assert found[0]["devices"] == 8
    expected = reference(20, optimizer=GENTLE, augment=True)
    for report in found:
        check(report["losses"], expected)


@pytest.mark.long
def test_a_checkpoint_is_read_straight_into_the_pieces():
    (report,) = spread(1, devices=8, fsdp=8, source=True)
    assert set(report["read"]) == set(parameter_shapes(SMALL))
    assert report["read"]["PaliGemma/llm/layers/mlp/linear"] == 1 / 8
    assert report["read"]["progress_head/hidden/bias"] == 1
