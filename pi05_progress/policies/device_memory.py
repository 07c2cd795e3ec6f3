"""How much of a GPU's memory JAX may take: asked for in GB (10^9 bytes), set before JAX looks for devices.

JAX takes its share at once and shares it out itself. What it leaves is for everything else on the card: the CUDA
libraries of this process, a video decoder, a viewer. NVIDIA's own tool says what the card has: asking JAX would be too
late. Nothing here imports JAX before ``describe``.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from ..errors import UserError

GB = 10**9
MIB = 2**20
FOR_OTHERS_GB = 4.0  # CUDA's libraries about 1, a video decoder and a viewer about 1 each, and one to spare
LEAST_SHARE = 0.75  # of cards so small that this is more: what JAX would take by itself
VARIABLES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")  # JAX's; both together are an error of its
_claimed: set[str] = set()  # shares that ``claim`` has set in this process
QUERY = "--query-gpu=name,memory.total,driver_version"


@dataclass(frozen=True)
class Card:
    """A GPU as its driver describes it; ``memory`` in bytes, None where the driver does not say."""

    name: str
    memory: int | None
    driver: str


@dataclass(frozen=True)
class Claim:
    """What was asked for and what came of it."""

    asked_gb: float  # 0 for the default
    card: Card | None  # None if no NVIDIA card was found
    fraction: float | None = None  # of the card's memory; None if nothing was set
    by_user: str = ""  # the variable by which the user has set a fraction already; then nothing else is


def is_set(environment: Mapping[str, str]) -> str:
    """The variable by which a share is set already; empty if none."""
    return next((name for name in VARIABLES if environment.get(name)), "")


def find_card(environment: Mapping[str, str]) -> Card | None:
    """The first card that JAX would use; None without a driver or a card. Others are taken to be like it."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return None
    chosen = [f"--id={visible.split(',')[0].strip()}"] if visible else []
    command = ["nvidia-smi", *chosen, QUERY, "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=dict(environment))
    except (OSError, subprocess.SubprocessError):
        return None
    fields = [field.strip() for field in said.stdout.partition("\n")[0].split(",")]
    if len(fields) != 3:
        return None
    name, mebibytes, driver = fields
    return Card(name, int(mebibytes) * MIB if mebibytes.isdecimal() else None, driver)


def claim(gpu_memory_gb: float, environment: MutableMapping[str, str]) -> Claim:
    """Set the share of a GPU's memory for JAX in this environment; call it before JAX is asked for devices.

    Args:
        gpu_memory_gb: so much; 0 takes all but ``FOR_OTHERS_GB``, of small cards three quarters.
        environment: ``os.environ``, mostly. A share that is set in it already stays if it is the same or nothing
            else was asked for.

    Raises:
        UserError: the number makes no sense, the card has less, another share is set in the environment, or an earlier
            call in this process has claimed another.
    """
    if not math.isfinite(gpu_memory_gb) or gpu_memory_gb < 0:
        raise UserError(f"gpu_memory_gb is {gpu_memory_gb}; expected GB, or 0 for all but {FOR_OTHERS_GB:g}")
    card, by_user = find_card(environment), is_set(environment)
    fraction = _fraction(gpu_memory_gb, card)
    there = environment.get(by_user)  # None without a variable
    if there is not None and there != str(fraction):  # else it is an earlier call's
        if fraction is not None and there in _claimed:
            told = "another share than before, but JAX has its memory already; restart the process"
            raise UserError(f"gpu_memory_gb is {gpu_memory_gb:g}, {told}")
        if gpu_memory_gb:
            raise UserError(f"gpu_memory_gb is {gpu_memory_gb:g}, and {by_user} is set to {there}: leave one out")
        return Claim(gpu_memory_gb, card, by_user=by_user)
    if fraction is not None:
        environment[VARIABLES[0]] = str(fraction)
        _claimed.add(str(fraction))
    return Claim(gpu_memory_gb, card, fraction)


def _fraction(asked_gb: float, card: Card | None) -> float | None:
    """Of a card's memory; None where there is no card, or its memory is not known."""
    if card is None or card.memory is None:
        return None
    total = card.memory / GB
    if asked_gb > total:
        raise UserError(f"gpu_memory_gb is {asked_gb:g}, but {card.name} has {total:.1f} GB")
    share = asked_gb / total if asked_gb else max(LEAST_SHARE, 1 - FOR_OTHERS_GB / total)
    return round(share, 4)


def describe(claim: Claim, backend: str) -> str:
    """What a policy computes on and how much memory it may use, for a log; JAX may look for devices now."""
    if backend != "jax":
        effect = f": gpu_memory_gb {claim.asked_gb:g} has no effect on it" if claim.asked_gb else ""
        return f"the policy does not compute in JAX here ({backend}){effect}"
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        effect = f"; gpu_memory_gb {claim.asked_gb:g} has no effect" if claim.asked_gb else ""
        return f"JAX computes on the CPU{effect}"
    limit = (device.memory_stats() or {}).get("bytes_limit")
    text = f"JAX computes on {device.device_kind}"
    if claim.card is not None and claim.card.memory is not None:
        text += f" with {claim.card.memory / GB:.1f} GB"
    if limit is not None:
        text += f", of which it may take {limit / GB:.1f} GB"
    if claim.by_user:
        return f"{text} ({claim.by_user})"
    if claim.fraction is None:
        return f"{text}; gpu_memory_gb {claim.asked_gb:g} was not kept: nvidia-smi does not say what the card has"
    return f"{text} (gpu_memory_gb {f'{claim.asked_gb:g}' if claim.asked_gb else 'by default'})"
