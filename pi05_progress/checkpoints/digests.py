"""Digests of the files that hold parameters, so that a bit that was flipped on a disk or on the way is noticed.

``<part>.sha256`` beside the folder ``<part>/`` has a line per file as ``sha256sum`` writes it, so ``sha256sum -c
<part>.sha256`` checks a copy, and ``find <part> -type f -exec sha256sum {} + > <part>.sha256`` makes one.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..files.output_file import write_file
from .checkpoint_error import CheckpointError

ENDING = ".sha256"
log = logging.getLogger(__name__)


def write_digests(part: Path, folder: Path) -> None:
    """Write down what is in a folder of parameters now; the last thing that is done to it."""
    files = sorted(path for path in part.rglob("*") if path.is_file())
    lines = [f"{digest}  {part.name}/{path.relative_to(part)}\n" for path, digest in _digests(files).items()]
    write_file(folder / f"{part.name}{ENDING}", "".join(lines), durable=True)


def check_digests(part: Path) -> None:
    """Compare a folder of parameters with what was written down; if nothing was, that is said. A ``CheckpointError``: a
    file is not what it was, is not listed, or cannot be read."""
    listed = part.with_name(part.name + ENDING)
    if not listed.exists():
        log.warning("%s has no %s: read without a check for damaged numbers", part, listed.name)
        return
    try:
        lines = (line for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())
        pairs = (line.split(" ", 1) for line in lines)
        wanted = {part.parent / name.lstrip(" *"): digest.lower() for digest, name in pairs}
        found = _digests(wanted)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{listed}: {part.name}/ cannot be compared with it, damaged or incomplete: {error}; copy both again"
        ) from error
    if unlisted := [str(path) for path in part.rglob("*") if path.is_file() and path not in wanted]:
        raise CheckpointError(
            f"{listed}: does not list {', '.join(unlisted[:3])}{' ...' * (len(unlisted) > 3)}, so damage there would "
            f"not be noticed; copy it again, or remove what is not the checkpoint's. If the files are sound, list them "
            f"anew, in {part.parent}: find {part.name} -type f -exec sha256sum {{}} + > {listed.name}"
        )
    if changed := [str(path) for path, digest in found.items() if digest != wanted[path]]:
        raise CheckpointError(
            f"{', '.join(changed)}: damaged, it is not what {listed.name} says it was when the checkpoint was "
            "saved; copy it again"
        )


def _digests(paths: Iterable[Path]) -> dict[Path, str]:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(paths, pool.map(digest, paths), strict=True))
