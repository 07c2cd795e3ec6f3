"""Where arrays lie: a mesh of data x fsdp devices, openpi's rule for parameters, and batches cut over all devices.

The mesh's axes are called ``batch`` and ``fsdp``, as openpi calls them. A batch is cut over both; a parameter, its
optimiser state and its average are cut over ``fsdp`` alone and repeated over ``batch``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pi05_progress.errors import UserError
from pi05_progress.models.layers import BATCH_AXES

FSDP = BATCH_AXES[1]
SMALLEST_SHARDED = 4 * 2**20  # bytes; smaller leaves are repeated, cutting them would cost more than it saves


@dataclass(frozen=True)
class MeshConfig:
    """How a run is spread over devices and processes."""

    fsdp_devices: int = 1
    """Devices that share one copy of parameters and optimiser state; the batch is cut over all devices anyway."""
    distributed: bool = False
    """Several processes, each started with the same command. Where SLURM started them, or Kubernetes as an indexed
    job, JAX finds the others by itself; elsewhere name them with the next three."""
    coordinator: str | None = None
    """host:port of process 0, which the others can reach."""
    processes: int | None = None
    """Number of processes."""
    process_index: int | None = None
    """Number of this process, from 0."""

    def __post_init__(self) -> None:
        if self.fsdp_devices < 1:
            raise UserError(f"mesh.fsdp_devices is {self.fsdp_devices}; expected at least 1")
        named = (self.coordinator, self.processes, self.process_index)
        if any(value is not None for value in named) and (not self.distributed or None in named):
            raise UserError(
                "mesh.coordinator, mesh.processes and mesh.process_index belong together, with mesh.distributed: "
                f"they are {self.coordinator}, {self.processes}, {self.process_index}, {self.distributed}"
            )
        if self.processes is not None and not 0 <= self.process_index < self.processes:
            raise UserError(
                f"mesh.process_index is {self.process_index}; expected 0 to {self.processes - 1} (mesh.processes)"
            )


def start_processes(config: MeshConfig) -> None:
    """Meet the other processes, if there are any; before anything else of JAX is used."""
    if not config.distributed:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.processes, config.process_index)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"mesh.distributed: the other processes were not met: {str(error).splitlines()[0]}; outside of SLURM and "
            "Kubernetes give mesh.coordinator, mesh.processes and mesh.process_index"
        ) from error


def check_devices(devices: int, fsdp_devices: int) -> None:
    """Refuse a number of devices that cannot share copies of the parameters."""
    if devices % fsdp_devices:
        raise UserError(f"mesh.fsdp_devices is {fsdp_devices}, but there are {devices} devices; expected a divisor")


def check_batch_size(rows: int, devices: int, accumulation_steps: int) -> None:
    """Refuse a batch that cannot be cut into pieces for all devices."""
    if rows % (devices * accumulation_steps):
        raise UserError(
            f"batch_size is {rows}; expected a multiple of {devices} devices times optimizer.accumulation_steps "
            f"{accumulation_steps}"
        )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of (devices / fsdp, fsdp) devices.

    Args:
        devices: all there are, over all processes, if None. Their order is kept, so that every process's part of a
            batch is one piece of it and devices that share parameters are neighbours.
    """
    devices = jax.devices() if devices is None else devices
    check_devices(len(devices), config.fsdp_devices)
    grid = np.asarray(devices).reshape(-1, config.fsdp_devices)
    # Auto: the compiler completes what is not said. Sharding constraints are refused on explicit axes.
    return Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def partition(shape: Sequence[int], dtype: Any, fsdp: int) -> PartitionSpec:
    """openpi's rule: which axis of a parameter is cut over ``fsdp`` devices, if any.

    Repeated are leaves with fewer than two axes and those below 4 MiB; of others the largest axis that ``fsdp``
    divides is cut, the later one where two are equal, and they are repeated where it divides none.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if fsdp == 1 or len(shape) < 2 or size < SMALLEST_SHARDED:
        return PartitionSpec()
    for axis in sorted(range(len(shape)), key=lambda i: (shape[i], i), reverse=True):
        if shape[axis] % fsdp == 0:
            return PartitionSpec(*(FSDP if i == axis else None for i in range(len(shape))))
    return PartitionSpec()


def parameter_sharding(mesh: Mesh, leaf: Any) -> NamedSharding:
    """Where a leaf of the train state lies; ``leaf`` is an array or its shape."""
    return NamedSharding(mesh, partition(leaf.shape, leaf.dtype, mesh.shape[FSDP]))


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """Shardings of every leaf of a pytree of arrays or shapes."""
    return jax.tree.map(lambda leaf: parameter_sharding(mesh, leaf), tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis cut over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """A batch on the devices, a pytree of global arrays, from one of host arrays with this process's rows on the first
    axis: those of the whole batch in the order of process indices, as many in every process."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)
