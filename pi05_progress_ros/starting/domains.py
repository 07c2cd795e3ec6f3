"""ROS domains: where a simulated robot may run, and one of its own for what is started only to be watched.

No ROS in here, so that launch files can ask before anything starts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

from pi05_progress.errors import UserError

from .processes import DISCOVERY, TRANSPORT, transport

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
