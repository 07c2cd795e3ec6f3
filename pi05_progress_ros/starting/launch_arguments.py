"""What several launches share: common arguments, and what their values mean. No ROS in here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pi05_progress.errors import UserError
from pi05_progress.files.config_files import config_file

from ..transport import VARIABLE as TRANSPORT
from .processes import Argument

if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

BOOLEANS = ("true", "false")
DEFAULT_ROBOT = "teleavatar"
DISCOVERY = "ROS_AUTOMATIC_DISCOVERY_RANGE"

ROBOT = "robot profile: a name (teleavatar, teleavatar_v1, teleavatar_v2), or the path of a YAML file"
NAMESPACE = Argument(
    "namespace", "of the policy node and of what it publishes; the robot's own topics stay as they are"
)
LOG_LEVEL = Argument(
    "log_level", "what is logged, and everything more severe", "info", ("debug", "info", "warn", "error", "fatal")
)


def load_profile(name: str) -> RobotProfile:
    """A robot profile.

    Raises:
        UserError: there is none, or this Python lacks what reading one needs.
    """
    try:
        from pi05_progress.robots.profile import RobotProfile
    except ImportError as error:
        raise UserError(
            f"{sys.executable} lacks this package's Python dependencies ({error}). With them in a virtual environment: "
            "activate it and run  python3 $(which ros2) launch ..."
        ) from error
    try:
        return RobotProfile.load(name)
    except ValueError as error:
        raise UserError(f"robot:={name}: {error}") from error


def transport(environment: Mapping[str, str], sim: bool = False) -> dict[str, str]:
    """Variables that are added: the middleware profile, and for simulations that they stay on this machine.

    What the user has set is left alone.
    """
    wanted = {TRANSPORT: str(config_file("fastdds.xml"))}
    if sim:
        wanted[DISCOVERY] = "LOCALHOST"
    return {name: value for name, value in wanted.items() if not environment.get(name)}


def number(name: str, text: str, kind: Callable[[str], Any], between: tuple[float, float] | None = None) -> Any:
    """A number from an argument's text, within limits that belong to it.

    Raises:
        UserError: it is none, or outside of the limits.
    """
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"{name}:={text}: expected {'a whole number' if kind is int else 'a number'}") from None
    if between and not between[0] <= value <= between[1]:
        raise UserError(f"{name}:={text}: expected {between[0]:g} to {between[1]:g}")
    return value
