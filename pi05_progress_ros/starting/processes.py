"""What a launch consists of, as plain values: its arguments, the processes that follow from them, and their ROS domain.

Read by the launch files (``launch_actions.py``) and by ``run.py`` for machines without ``launch``. Imports neither,
nor ROS, so that launch files can ask before anything starts.
"""

from __future__ import annotations

import difflib
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi05_progress.errors import UserError
from pi05_progress.files.config_files import config_file
from pi05_progress.files.yaml_text import load_yaml

if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

TRANSPORT = "FASTRTPS_DEFAULT_PROFILES_FILE"


def use_image_transport() -> str:
    """Point FastDDS to ``config/fastdds.xml`` unless the user has chosen a profile; returns the file in use."""
    return os.environ.setdefault(TRANSPORT, str(config_file("fastdds.xml")))


PACKAGE = "pi05_progress"
RESPAWN_S = 2.0
NAMES = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*")

Value = bool | int | float | str | list[str]


@dataclass(frozen=True)
class Argument:
    """One launch argument; all of them are text."""

    name: str  # as in ``name:=value``
    text: str  # what it means, with unit
    default: str = ""  # its value unless given
    choices: tuple[str, ...] = ()  # the values it may have; empty if any


@dataclass(frozen=True)
class Process:
    """One process: a node of this package, or another program."""

    name: str  # of the node, or what the program is called in messages to people
    executable: str = ""  # of this package, as in ``ros2 run pi05_progress EXECUTABLE``; empty for another program
    module: str = ""  # Python module with the same ``main``
    command: tuple[str, ...] = ()  # argument vector of another program; empty for a node
    namespace: str = "/"  # of the node, absolute
    parameters: Mapping[str, Value] = field(default_factory=dict)  # of the node; they win over those of ``params_file``
    params_file: str = ""  # path of a ROS parameter file, or empty
    remappings: tuple[tuple[str, str], ...] = ()  # pairs from, to
    log_level: str = "info"  # of the node
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the variables it inherits
    required: bool = True  # whether everything ends when it does
    respawn: bool = False  # whether it is started again instead, ``RESPAWN_S`` later
    note: str = ""  # what a person should be told when it starts

    @property
    def full_name(self) -> str:
        """Name of the node with its namespace."""
        return f"{self.namespace.rstrip('/')}/{self.name}"


@dataclass(frozen=True)
class Launch:
    """One launch file."""

    name: str  # of the file, without ``.launch.py``
    text: str  # what it starts
    arguments: tuple[Argument, ...]  # what it may be given
    # the processes that follow from the values of all arguments and from the environment
    describe: Callable[[Mapping[str, str], Mapping[str, str]], tuple[Process, ...]]

    def processes(self, given: Mapping[str, str], environment: Mapping[str, str]) -> tuple[Process, ...]:
        """What is to be started; a ``UserError`` if an argument is unknown or has a value it cannot have."""
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise UserError(f"unknown argument {name}; {meant}")
        values = {a.name: given.get(a.name, a.default) for a in self.arguments}
        for name, value in values.items():
            choices = known[name].choices
            if choices and value not in choices:
                raise UserError(f"{name}:={value}: expected {' or '.join(c or 'nothing' for c in choices)}")
        return self.describe(values, environment)


def absolute_namespace(text: str) -> str:
    """A namespace with its leading slash, empty is the root; a ``UserError`` if it is none."""
    if text in ("", "/"):
        return "/"
    if not NAMES.fullmatch(text):
        raise UserError(f"namespace:={text}: expected names of letters, digits and _, separated by /")
    return "/" + text.strip("/")


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
    """A robot profile; a ``UserError`` if there is none, or this Python lacks what reading one needs."""
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
    """A number from an argument's text; a ``UserError`` if it is none, or outside of limits, which belong to them."""
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"{name}:={text}: expected {'a whole number' if kind is int else 'a number'}") from None
    if between and not between[0] <= value <= between[1]:
        raise UserError(f"{name}:={text}: expected {between[0]:g} to {between[1]:g}")
    return value


def write_parameters(process: Process, path: Path) -> None:
    """Write a node's parameters, as JSON, which is YAML: ROS takes ``"1e3"`` and ``"on"`` in quotes for texts, too."""
    content = {process.full_name: {"ros__parameters": dict(process.parameters)}}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def file_parameters(path: str, full_name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Some of a node's parameters in a ROS parameter file; a ``UserError`` if it is unreadable, or has one twice."""
    if not path:
        return {}
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"params_file:={path}: cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for pattern, section in _sections(content, ""):
        if not _matches(pattern, full_name):
            continue
        for name in names:
            if name in section and name in found:
                raise UserError(f"params_file:={path}: {name} is given to {full_name} more than once")
            if name in section:
                found[name] = section[name]
    return found


def _sections(content: Any, prefix: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Pairs of a node's name, which may hold wildcards, and its parameters."""
    if not isinstance(content, dict):
        return []
    found = []
    for key, value in content.items():
        if key == "ros__parameters" and isinstance(value, dict):
            found.append((prefix, value))
        else:
            found += _sections(value, f"{prefix}/{str(key).strip('/')}")
    return found


def _matches(pattern: str, full_name: str) -> bool:
    """Whether a node is meant: ``*`` stands for one name, ``**`` for any number of them."""
    parts = {"**": r"(/\w+)*", "*": r"/\w+"}
    expression = "".join(parts.get(part, f"/{re.escape(part)}") for part in pattern.strip("/").split("/"))
    return re.fullmatch(expression, full_name) is not None


DOMAINS = range(40, 100)  # none of the robots', and ports that no system hands out by itself
PRODUCTION_DOMAIN = 29
ROBOT_DOMAINS = (0, PRODUCTION_DOMAIN)
PEERS = "ROS_STATIC_PEERS"  # machines that are found however short discovery's range is


def check_domain(domain: int, force: bool) -> None:
    """Refuse the production robot's domain to a simulated one, by a ``UserError``, unless it is forced."""
    if domain == PRODUCTION_DOMAIN and not force:
        raise UserError(
            f"ROS_DOMAIN_ID={domain} is the production robot's: a simulation there could be taken for it. "
            "Use another domain, e.g. ROS_DOMAIN_ID=42, or set the parameter force_domain to true."
        )


def own_variables(environment: Mapping[str, str], alone: bool = False) -> dict[str, str]:
    """Variables that keep what is started to itself.

    They name a ROS domain, unless one is set that is no robot's, and confine it to this machine: unless the user has
    set how far discovery goes, or in any case if it is to be ``alone``, because it moves arms without asking anybody.
    """
    domain = asked_domain(environment)
    if domain is None or domain in ROBOT_DOMAINS:
        domain = random.SystemRandom().choice(DOMAINS)
    found = {name: environment.get(name, "") for name in (DISCOVERY, TRANSPORT)}
    only_here = {DISCOVERY: "LOCALHOST", PEERS: ""} if alone else {}
    return {"ROS_DOMAIN_ID": str(domain), **found, **transport(environment, sim=True), **only_here}


def asked_domain(environment: Mapping[str, str]) -> int | None:
    """The ROS domain that is set, None if none is; a ``UserError`` if it is no number."""
    text = environment.get("ROS_DOMAIN_ID", "")
    try:
        return int(text) if text else None
    except ValueError:
        raise UserError(f"ROS_DOMAIN_ID={text}: expected a number") from None


def make_log_folder(environment: Mapping[str, str]) -> Path:
    """A new folder among ROS's logs."""
    home = environment.get("ROS_HOME") or str(Path("~/.ros").expanduser())
    parent = Path(environment.get("ROS_LOG_DIR") or Path(home, "log"))
    folder = parent / f"pi05_progress_demo_{time.strftime('%Y-%m-%d-%H-%M-%S')}_{os.getpid()}"
    folder.mkdir(parents=True)
    return folder
