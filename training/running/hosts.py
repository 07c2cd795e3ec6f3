"""Several processes, one a host, that train together: finding each other, and stopping at the same step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostsConfig:
    """Processes that train together. Under SLURM, or on a TPU pod, give ``--hosts.distributed`` alone."""

    distributed: bool = False
    """Whether there are several processes; implied by an address."""
    coordinator: str = ""
    """host:port of process 0, the same for all; empty takes what SLURM says."""
    process_count: int | None = None
    """How many processes there are; None takes what SLURM says."""
    process_id: int | None = None
    """Which one this is, from 0; None takes what SLURM says."""
