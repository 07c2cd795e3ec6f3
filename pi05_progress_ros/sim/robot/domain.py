"""Where a simulated robot may run. No ROS in here, so that launch files can ask before anything starts."""

from __future__ import annotations

PRODUCTION_DOMAIN = 29


class StartError(RuntimeError):
    """The node must not or cannot start; the message says why and what to do."""


def check_domain(domain: int, force: bool) -> None:
    """Refuse the production robot's domain.

    Raises:
        StartError: the domain is the robot's and it was not forced.
    """
    if domain == PRODUCTION_DOMAIN and not force:
        raise StartError(
            f"ROS_DOMAIN_ID={domain} is the production robot's: a simulation there could be taken for it. "
            "Use another domain, e.g. ROS_DOMAIN_ID=42, or set the parameter force_domain to true."
        )
