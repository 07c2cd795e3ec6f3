"""Two processes that train together, through files and signals as on two hosts."""

import dataclasses
import os
import signal
import socket
import time

import pytest
from conftest import PATIENCE_S
from training_runs import NAME, configuration, in_its_own_process, rows, run

from pi05_progress.checkpoints.checkpoint import load_checkpoint

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_training")]


def two_processes(config):
    """Started; the first one of them writes the logs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    meshes = [
        dataclasses.replace(config.mesh, distributed=True, coordinator=address, processes=2, process_index=index)
        for index in (0, 1)
    ]
    env = {**os.environ, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    return [in_its_own_process(dataclasses.replace(config, mesh=mesh), env=env) for mesh in meshes]


def ended(processes, statuses=(0, 0)):
    said = [process.communicate(timeout=2 * PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == list(statuses), said
    return said


def losses(folder, log="metrics.csv"):
    return [[float(row[name]) for name in ("action_loss", "loss")] for row in rows(folder / log)]


def test_two_processes_give_the_curve_of_one_and_one_goes_on_with_what_they_saved(data, tmp_path):
    whole, _ = run(data, tmp_path / "whole", log_interval=1)
    said = ended(two_processes(configuration(data, tmp_path, log_interval=1, num_train_steps=3)))
    assert "done: 3 steps" in said[0][0] and "done" not in said[1][0]
    folder = tmp_path / NAME / "run"
    load_checkpoint(folder / "3")
    run(data, tmp_path, log_interval=1, resume=True)
    for log in ("metrics.csv", "validation.csv"):
        for ours, theirs in zip(losses(folder, log), losses(whole, log), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_signal_to_one_process_saves_and_ends_both_after_the_same_step(data, tmp_path):
    processes = two_processes(configuration(data, tmp_path, num_train_steps=100_000, validation_interval=0))
    folder = tmp_path / NAME / "run"
    while not (folder / "metrics.csv").exists():
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    said = ended(processes, (75, 143))
    assert "stopped by another process" in said[0][0]
    load_checkpoint(folder / "last")


def test_processes_that_do_not_see_the_same_are_refused(data, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = {**os.environ, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    started = []
    for index in (0, 1):
        config = configuration(data, tmp_path, num_train_steps=3, seed=index)
        mesh = dataclasses.replace(config.mesh, distributed=True, coordinator=address, processes=2, process_index=index)
        started.append(in_its_own_process(dataclasses.replace(config, mesh=mesh), env=env))
    said = [process.communicate(timeout=2 * PATIENCE_S) for process in started]
    assert all(process.returncode for process in started)
    assert all("the processes differ in command lines" in text for text in map(str, said))
