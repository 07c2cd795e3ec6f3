"""Steps that are done once: each leaves a stamp that says what its result was made from. For ``demo_train.py``.

A stamp lies beside the result, as NAME.made.json. It is written when a step begins and again when it is done, so a
result that is there is known to be complete, and to be of these arguments and inputs. Nothing here knows what is made.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pi05_progress.files.fingerprint import files_in
from pi05_progress.files.fingerprint import fingerprint as name_of
from pi05_progress.files.output_file import PARTIAL, write_file
from pi05_progress.files.output_folder import output_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Else glibc gives the arrays of a training step back to the system, which fills them anew: a third of a step on a CPU.
KEEPS_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1"
}
LOOK_S = 0.2  # how often a child is looked at for signals that are to be passed on


class StepError(RuntimeError):
    """A step failed, was stopped, or cannot be done; the message says what to do.

    Attributes:
        status: exit status for this process.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Step:
    """A command of Python's, and what is there when it is done.

    Attributes:
        name: for people.
        arguments: of the interpreter.
        result: file or folder.
        inputs: files and folders that the result is made from; their names, sizes and times are looked at.
        resume: what the command is given to go on with what it has begun.
        redo: what it is given to replace a result; None refuses to, because it took long or is somebody's.
        always: whether it is run even if nothing has changed, because it sees for itself what there is to do.
    """

    name: str
    arguments: tuple[str, ...]
    result: Path
    inputs: tuple[Path, ...] = ()
    resume: tuple[str, ...] = ()
    redo: tuple[str, ...] | None = None
    always: bool = False


@dataclass(frozen=True)
class Ship:
    """The best checkpoint of a training run becomes a folder of its own.

    Attributes:
        run: folder of the run, with ``best``.
        checkpoint: folder to be made or replaced.
    """

    run: Path
    checkpoint: Path


def shown(arguments: Iterable[str], out: Path) -> str:
    """Arguments as in a shell, with ``$OUT`` for the folder of everything."""
    inside = f"{out}/"
    words = (f'"{word.replace(inside, "$OUT/")}"' if inside in word else shlex.quote(word) for word in arguments)
    return f"python {' '.join(words)}"


def fingerprint(paths: Iterable[Path]) -> str:
    """A name for files and all files of folders, by their names, sizes and times; what is not there counts, too."""
    return name_of([[number, *file] for number, path in enumerate(paths) for file in files_in(path)])


def stamp_path(result: Path) -> Path:
    """Where the stamp of a result lies."""
    return result.with_name(result.name + ".made.json")


def read_stamp(result: Path) -> dict[str, Any]:
    """What a stamp says: ``arguments``, ``inputs`` and whether it is ``complete``; nothing if there is none."""
    try:
        found = json.loads(stamp_path(result).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_stamp(result: Path, made_from: dict[str, Any], *, complete: bool) -> None:
    """Say what a result is made from; the file appears whole."""
    write_file(stamp_path(result), json.dumps({**made_from, "complete": complete}, indent=1) + "\n")


def made_from(step: Step, out: Path) -> dict[str, Any]:
    """What decides about a step's result. Paths are told within ``out``, so that it may be moved as a whole."""
    return {"arguments": shown(step.arguments, out), "inputs": fingerprint(step.inputs)}


def carry_out(step: Step, out: Path, cwd: Path) -> None:
    """Do a step, unless its result is there and was made from the same.

    Args:
        step: what to do.
        out: folder of everything.
        cwd: where the command is run.

    Raises:
        StepError: it failed or was stopped, or the result that is there was made from something else and stays.
        OSError: the stamp cannot be written.
    """
    wanted, found = made_from(step, out), read_stamp(step.result)
    same = all(found.get(key) == value for key, value in wanted.items())
    there = step.result.exists()
    if there and same and found.get("complete") and not step.always:
        print(f"--- {step.name}: {step.result} is there", flush=True)
        return
    begun = same and not found.get("complete")
    in_work = not there or step.result.with_name(step.result.name + PARTIAL).exists()
    extra: Sequence[str] = step.resume
    if there and not same and not step.always and step.redo is None:
        raise StepError(
            f"{step.name}: {step.result} is there, but was made from something else than it would be now (or by "
            "something else: there is no stamp). Remove it to make it anew, or choose another --out"
        )
    if step.redo is not None and not (begun and in_work):
        extra = step.redo  # also where another attempt left something unfinished
    if not step.always:
        write_stamp(step.result, wanted, complete=False)
    print(f"--- {step.name}: {shown([*step.arguments, *extra], out)}", flush=True)
    status, received = run([sys.executable, *step.arguments, *extra], cwd)
    if not status:
        if not step.result.exists():
            raise StepError(f"{step.name} ended without an error, but there is no {step.result}")
        if not step.always:
            write_stamp(step.result, wanted, complete=True)
    if received:
        raise StepError(f"{step.name}: stopped; the same command goes on from here", status or 128 + received)
    if status:
        raise StepError(
            f"{step.name} ended with exit status {status}; mended, the same command goes on from here", status
        )


def run(command: Sequence[str], cwd: Path) -> tuple[int, int]:
    """Run a command and wait for it, however long it takes to end in order after a signal.

    Ctrl-C reaches the command through the terminal. SIGTERM and SIGHUP come to this process alone and are passed on as
    SIGINT, at which all of the project's programs keep what is done, and those with workers end them, too; or as they
    came where SIGINT is ignored, as in a script's background job.

    Returns:
        Its exit status, 128 + the number if a signal ended it; and the first signal that came here, 0 if none did.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    # A handler, not SIG_IGN: that would be inherited. What is ignored already (nohup) stays so, for the command, too.
    former = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number, handler in former.items() if handler != signal.SIG_IGN]
    for number in mine:
        signal.signal(number, note)
    try:
        further = KEEPS_MEMORY if "training.train" in command else {}
        child, passed_on = subprocess.Popen(command, cwd=cwd, env=further | os.environ), 0
        while child.poll() is None:
            for number in received[passed_on:]:
                if number != signal.SIGINT:
                    child.send_signal(signal.SIGINT if signal.SIGINT in mine else number)
                passed_on += 1
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_S)
    finally:
        for number in mine:
            signal.signal(number, former[number])
    status = 128 - child.returncode if child.returncode < 0 else child.returncode
    return status, received[0] if received else 0


def copied(source: Path, target: Path, markers: Sequence[str], left_out: Sequence[str]) -> bool:
    """Copy a folder, once; it appears complete, and replaces only what has all of the markers.

    Args:
        source: links are followed, so that the stamp says which folder it was.
        target: where to.
        markers: names of files and folders that tell what it is.
        left_out: names of what is not copied.

    Returns:
        Whether it had to be copied.

    Raises:
        OutputFolderError: something else is there, or nothing can be written.
        OSError: reading failed.
    """
    real = source.resolve(strict=True)
    wanted = {"arguments": real.name, "inputs": fingerprint([real])}
    if read_stamp(target) == {**wanted, "complete": True} and all((target / name).exists() for name in markers):
        return False
    with output_folder(target, replaces=markers) as folder:
        write_stamp(target, wanted, complete=False)
        shutil.copytree(real, folder, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
    write_stamp(target, wanted, complete=True)
    return True
