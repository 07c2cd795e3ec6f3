"""The file of results, written anew after every row and always complete: beside it, then moved into place."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from pi05_progress.policies.device_memory import Card

from .finite import noted

PACKAGES = (
    "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "jaxtyping",
    "numpy", "ml-dtypes", "opencv-python-headless", "pyarrow", "pyyaml", "psutil", "tqdm",
)  # fmt: skip


class Record:
    """Results so far.

    Args:
        path: of the file; None only collects.
        variant: of the model.
        facts: ``device``, ``platform`` and ``bytes_limit``, as JAX says.
        card: as its driver says, if there is one.
        limit_gb: of the device's memory that JAX may take, if one was asked for.
        error: why there will be no results.
    """

    def __init__(
        self,
        path: Path | None,
        variant: str | None,
        facts: dict[str, Any],
        card: Card | None,
        limit_gb: float | None,
        error: str | None = None,
    ) -> None:
        self._path, self._part = path, ""
        on_card = card is not None and facts["platform"] != "cpu"
        versions = {"python": platform.python_version(), **installed()}
        self.data: dict[str, Any] = {
            "device": facts["device"] if facts["platform"] != "cpu" else f"CPU: {processor()}, {os.cpu_count()} cores",
            "platform": facts["platform"],
            "driver": card.driver if on_card else None,
            "device_memory_bytes": card.memory if on_card else None,
            "memory_limit_bytes": facts["bytes_limit"],
            "limit_memory_gb": limit_gb,
            "jax": versions.get("jax"),
            "versions": versions,
            "variant": variant,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "load_at_start": round(os.getloadavg()[0], 2),
            "parts": {},
            "rows": [],
            "limits": [],
        } | ({"error": error} if error else {})
        self.write()

    def begin(self, part: str) -> None:
        """The rows that follow belong to this part."""
        self._part, self._began = part, time.monotonic()
        self.data["parts"][part] = {"status": "running"}
        self.write()

    def end(self, status: str, error: str = "") -> None:
        """The part is over: ``done``, ``failed``, ``cut off`` or ``left out``."""
        seconds = round(time.monotonic() - self._began, 1)
        self.data["parts"][self._part] = {"status": status, "seconds": seconds} | ({"error": error} if error else {})
        self.write()

    def add(self, message: dict[str, Any]) -> None:
        """Take over what a part says; a row takes the place of its provisional one."""
        for key in ("row", "limit"):
            if key in message:
                new, there = {"part": self._part, **message[key]}, self.data[f"{key}s"]
                self.data[f"{key}s"] = [one for one in there if not _replaced(one, new)] + [new]
        self.write()

    def write(self) -> None:
        """Put all there is in place of what the file had."""
        if self._path is None:
            return
        beside = self._path.with_name(f"{self._path.name}.partial")
        beside.write_text(json.dumps(noted(self.data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(beside, self._path)

    def keep(self, part: str) -> str | None:
        """What files that a part keeps begin with, beside the file of results."""
        return None if self._path is None else str(self._path.absolute().with_name(f"{self._path.stem}.{part}"))

    @property
    def failed(self) -> list[str]:
        """Parts that failed."""
        return [part for part, about in self.data["parts"].items() if about["status"] == "failed"]


def _replaced(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return old.get("provisional", False) and (old["part"], old["name"]) == (new["part"], new["name"])


def installed() -> dict[str, str]:
    """Versions of the packages that matter, of those that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """What the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
