"""From what a person names to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from ..checkpoint_error import CheckpointError

WANTED = ["*.json", "*.safetensors", "*.sha256", "params/*", "assets/*"]  # not optimizer states


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder or file that is meant; other names, ``owner/name``, are downloaded from the Hugging Face hub. A
    ``CheckpointError`` where there is neither says how to get the files."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if match := re.match(r"(gs|s3)://", name):
        tool = "gcloud storage cp -r" if match[1] == "gs" else "aws s3 cp --recursive"
        target = name.rstrip("/").rpartition("/")[2]
        raise CheckpointError(
            f"{name} is in a bucket, which is not read from here; copy it and import the copy, for instance: "
            f"{tool} {name} {target}. Folders params/ and assets/ are needed, train_state/ is not"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{name}: no such folder or file, and not a name on a hub (owner/name) either")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    hint = f"or download {name} where there is a connection, and give the folder"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{name} is no folder here. To fetch it by name: pip install huggingface_hub; {hint}"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED))
    except Exception as error:  # of the hub's client, the connection, the disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"{name} is no folder here and could not be fetched from the hub: {reason}. Check the name, the connection "
            f"and, for a private repository, that you are logged in (hf auth login); {hint}"
        ) from error
