"""Message types by name, looked up at run time: not every robot has every package."""

from __future__ import annotations

import importlib

from pi05_progress.errors import UserError


def message_class(name: str) -> type:
    """The class of a message type ``package/msg/Name``.

    Raises:
        UserError: no such type is installed.
    """
    try:
        package, kind, message = name.split("/")
        return getattr(importlib.import_module(f"{package}.{kind}"), message)
    except (ValueError, AttributeError) as error:
        raise UserError(f"message type {name!r} is none: {error}") from error
    except ImportError as error:
        apt = f"ros-jazzy-{package.replace('_', '-')}"
        text = f"message type {name!r} is not installed ({error}): sudo apt install {apt}, or source its workspace"
        raise UserError(text) from error
