"""The folder of a run: new, gone on with, or refused; only one process group at a time trains in it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pi05_progress.checkpoints.description import CONFIG as DESCRIPTION
from pi05_progress.errors import UserError
from pi05_progress.files.lock import try_lock
from pi05_progress.files.output_folder import PARTIAL

CONFIG, LOCK = "config.json", ".lock"
LAST, BEST = "last", "best"


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
    """Refuse a folder that is there unless it is to be gone on with or replaced; nothing is changed.

    Raises:
        UserError: see above.
    """
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
    """Make the folder this process's; it is until the file returned is closed.

    Raises:
        UserError: another process trains in it, it cannot be locked, or nothing can be written there.
    """
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
