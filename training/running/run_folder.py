"""The folder of a run: new, gone on with, or refused; only one process group at a time trains in it. What of the
configuration that lies there a run that goes on may change.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flax.traverse_util import flatten_dict

from pi05_progress.checkpoints.description import CONFIG as DESCRIPTION
from pi05_progress.errors import UserError
from pi05_progress.files.json_file import read_json
from pi05_progress.files.lock import try_lock
from pi05_progress.files.output_folder import PARTIAL

from ..recipes.config import TrainConfig

CONFIG, LOCK = "config.json", ".lock"
LAST, BEST = "last", "best"
# Fields that change neither what is learnt from nor how; those of ``mesh`` change rounding at most.
FREE = (
    "exp_name",
    "output",
    "from_scratch",
    "tokenizer_path",
    "num_train_steps",
    "steps_per_dispatch",
    "log_interval",
    "validation_interval",
    "validation_stride",
    "sim_validation_every",
    "sim_episodes",
    "sim_arguments",
    "trace",
    "save_interval",
    "keep_period",
    "mesh",
    "logs",
    "resume",
    "overwrite",
    "plan",
    "plan_devices",
    "plan_gib",
    "data.cache",
    "data.progress_column",  # labels themselves are compared by the loader
    "data.workers",
    "data.threads",
)
FREED = tuple(f"{name}." for name in FREE)


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps everything."""

    root: Path

    def step(self, step: int) -> Path:
        """Folder of a checkpoint."""
        return self.root / str(step)

    def steps(self) -> list[int]:
        """Steps of which there is a complete checkpoint, in order."""
        if not self.root.is_dir():
            return []
        found = [path for path in self.root.iterdir() if path.name.isdecimal() and (path / DESCRIPTION).is_file()]
        return sorted(int(path.name) for path in found)

    def link(self, name: str, step: int) -> None:
        """Let ``last`` or ``best`` stand for a step."""
        new = self.root / f".{name}"
        new.unlink(missing_ok=True)
        new.symlink_to(str(step))
        os.replace(new, self.root / name)

    def linked(self, name: str) -> int | None:
        """The step that a link stands for."""
        path = self.root / name
        return int(os.readlink(path)) if path.is_symlink() else None

    def remove(self, step: int) -> None:
        """Take a checkpoint away; one that is half removed does not look like one."""
        gone = self.root / f"{step}.removed"
        os.replace(self.step(step), gone)
        shutil.rmtree(gone)

    def clean(self) -> None:
        """Remove what processes that were killed had begun."""
        for pattern in (f"*{PARTIAL}", "*.removed", f".{LAST}", f".{BEST}"):
            for path in self.root.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def check(root: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that is there unless it is to be gone on with or replaced; nothing is changed."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    if not root.exists() or resume:
        if root.exists() and not (root / CONFIG).is_file() and any(root.iterdir()):
            raise UserError(f"{root} is not the folder of a run, it has no {CONFIG}; choose another --exp_name")
        return
    if not overwrite:
        raise UserError(
            f"{root} is already there: go on with --resume, start anew with --overwrite (which removes it), or choose "
            "another --exp_name"
        )
    if not root.is_dir() or (any(root.iterdir()) and not (root / CONFIG).is_file()):
        raise UserError(f"{root} is not the folder of a run, it has no {CONFIG}, so it is not removed")


def take(root: Path, *, overwrite: bool) -> IO[str]:
    """Make the folder this process's, until the file returned is closed; refused while another one trains in it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{root}: cannot be written: {error.strerror}") from error
    try:
        mine = try_lock(lock)
    except OSError as error:
        lock.close()
        raise UserError(
            f"{root}: cannot be locked: {error.strerror}, so nothing would keep a second process from training there; "
            "mount that file system with locks (Lustre: -o flock), or give another one with --output"
        ) from error
    if not mine:
        lock.close()
        raise UserError(f"{root}: another process is training there; stop it, or choose another --exp_name")
    if overwrite:
        for path in root.iterdir():
            if path.name == LOCK:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    RunFolder(root).clean()
    return lock


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, nested as the dataclasses are."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations beyond what may, a line each."""
    old, new = (flatten_dict(dict(of), sep=".") for of in (before, now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name) and not f"{name}.".startswith(FREED)]
    shown = [{name: json.dumps(value) for name, value in of.items()} for of in (old, new)]
    return [f"{name}: {' -> '.join(of.get(name, '(not there)') for of in shown)}" for name in names]


def gone_on_with(path: Path, config: TrainConfig) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of a run that goes on, and all that was saved: the former one and more.

    It is the one that was saved, with what may be changed as it is asked for now; nothing else may differ. What the run
    started from and its tokenizer's file need not be given again.
    """
    try:
        saved = read_json(path)
        before = dict(saved["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read, so the run cannot go on: {error}") from error
    known = {name: Path(before[name]) for name in ("checkpoint", "tokenizer_path") if before.get(name)}
    config = dataclasses.replace(config, **{name: of for name, of in known.items() if getattr(config, name) is None})
    if different := changes(before, to_json(config)):
        listed = "\n  ".join(different)
        raise UserError(
            f"the run was started with another configuration ({path}):\n  {listed}\nGo on with the former values, or "
            "give another --exp_name to start a run of its own; these may change: " + ", ".join(FREE)
        )
    return config, saved
