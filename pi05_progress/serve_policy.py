"""Serves a policy over WebSocket.

    python -m pi05_progress.serving --checkpoint DIR
    python -m pi05_progress.serving --checkpoint DIR --host 0.0.0.0 --api-key-file key --tls-certificate a --tls-key b
    python -m pi05_progress.serving --checkpoint DIR --record recordings
    python -m pi05_progress.serving --checkpoint DIR --replay recordings

Clients of openpi connect to it as they are. docs/serving.md has the protocol, security and how to run it as a service.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from .checkpoints.description import code_version
from .errors import UserError, run_program
from .make_policy import make_policy
from .policies import device_memory
from .policies.backend import choose_backend, has_accelerator
from .policy import BackendChoice, Dtype, PolicyOptions
from .robots.profile import RobotProfile
from .serving.policy_responder import PolicyResponder
from .serving.recording import Recorder, check_folder, find_session, replay
from .serving.security import check_exposure, read_key, server_tls
from .serving.server import ServerSettings, check_address, run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """Command line."""

    checkpoint: str = ""
    """Checkpoint folder; empty serves random parameters, which is for trying only."""
    backend: BackendChoice = "auto"
    """jax for this package's checkpoints, torch for LeRobot's; auto takes what the folder contains."""
    robot: str = "teleavatar"
    """Robot profile: the name of one in config/, or a YAML file."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all. Others than this machine's own need an API key or --no-auth."""
    port: int = 8000
    """0 takes a free one, which is logged."""
    api_key_file: Path | None = None
    """File with the API key that clients must show; the variable PI05_PROGRESS_API_KEY does the same."""
    auth: bool = True
    """--no-auth: let everybody in who can reach the address."""
    tls_certificate: Path | None = None
    """Certificate chain in PEM; with --tls-key clients connect to wss://."""
    tls_key: Path | None = None
    """Private key of the certificate in PEM."""
    default_prompt: str = ""
    """Instruction of requests that have none."""
    max_batch: int = 0
    """Most requests that are computed together; 0 takes 4 on an accelerator and 1 on a CPU, where it saves nothing."""
    max_waiting: int = 64
    """Requests that may wait; further ones are refused."""
    max_message_mb: float = 32.0
    """Longest request, MB."""
    max_connections: int = 128
    """Clients at once; further ones are refused."""
    record: Path | None = None
    """Write every request with its reply into a new folder in here."""
    record_limit_gb: float = 10.0
    """Recording ends at so many GB."""
    replay: Path | None = None
    """Do not serve: ask the requests of a recording again and compare the replies."""
    tolerance: float = 1e-3
    """Largest difference of a number that --replay accepts."""
    policy: str = "pi05"
    """pi05, or module:function of importable Python code that takes the robot profile and returns a policy."""
    model: str = "tiny"
    """Model configuration where there is no checkpoint."""
    tokenizer: str = ""
    """Path of PaliGemma's tokenizer, for checkpoints that use it."""
    num_steps: int = 10
    """Denoising steps of one inference."""
    seed: int = 0
    """Of random parameters and of the noise that actions start from; openpi's is 0."""
    dtype: Dtype | None = None
    """What to compute in; None takes what the checkpoint says."""
    gpu_memory_gb: float = 0.0
    """Share of a GPU's memory that JAX takes, GB; 0: all but 4, which a video decoder and a viewer need."""
    debug: bool = False
    """Tell clients errors with a traceback, as openpi's server does, and log more."""


class Throttle(logging.Filter):
    """Lets what can be said thousands of times a second through every ten seconds, with how often it was left out."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._said: dict[str, tuple[float, int]] = {}  # per first line: when, and how often it was left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging.Filter``."""
        text = record.getMessage().partition("\n")[0]
        said, left_out = self._said.get(text, (-math.inf, 0))
        if record.created < said + self._seconds:
            self._said[text] = said, left_out + 1
            return False
        self._said[text] = record.created, 0
        if left_out:
            record.msg, record.args = f"{text} ({left_out} times more since this was last said)", ()
        return True


RANGES = {  # of options: least and most
    "port": (0, 65535), "max-batch": (0, math.inf), "max-waiting": (1, math.inf), "max-connections": (1, math.inf),
    "max-message-mb": (0.01, math.inf), "record-limit-gb": (0.001, math.inf), "tolerance": (0, math.inf),
    "num-steps": (1, math.inf), "gpu-memory-gb": (0, math.inf),
}  # fmt: skip


def serve_policy(args: ServeOptions) -> int:
    """Load, compile, serve until told to end, or replay; returns the exit status.

    A UserError or OSError says what is wrong, an InferenceEndedError why it cannot go on.
    """
    settings = server_settings(args)
    if args.replay is not None:
        find_session(args.replay)
    else:
        asyncio.run(check_address(args.host, args.port))
    if args.record is not None:
        check_folder(args.record)
    profile = RobotProfile.load(args.robot)
    if args.policy == "websocket":
        raise UserError("--policy websocket: a server cannot ask another server; serve a checkpoint")
    began = time.monotonic()
    backend = choose_backend(args.checkpoint, args.backend)
    claim = device_memory.claim(args.gpu_memory_gb, os.environ)
    max_batch = args.max_batch or (4 if has_accelerator(backend) else 1)
    options = PolicyOptions(
        policy=args.policy, checkpoint=args.checkpoint, backend=args.backend, model=args.model,
        tokenizer=args.tokenizer, num_steps=args.num_steps, seed=args.seed, dtype=args.dtype, max_batch=max_batch,
    )  # fmt: skip
    policy = make_policy(profile, options)
    metadata = {"server": "pi05_progress", "version": code_version()}
    responder = PolicyResponder(policy, profile, default_prompt=args.default_prompt, extra_metadata=metadata)
    log.info("model %s for %s loaded in %.1f s; compiling", policy.model_id, profile.name, time.monotonic() - began)
    began = time.monotonic()
    responder.warm_up()
    log.info("%s", device_memory.describe(claim, backend if args.policy == "pi05" else f"policy {args.policy}"))
    seconds, sizes = time.monotonic() - began, ", ".join(map(str, responder.batch_sizes))
    log.info("compiled and warmed up in %.1f s; requests are computed in batches of %s", seconds, sizes)
    head = {"temporal_head": hashlib.sha256(policy.temporal_head).hexdigest()} if policy.temporal_head else {}
    session = responder.metadata | head | {  # its digest: the head itself is in the checkpoint
        "checkpoint": args.checkpoint, "backend": backend, "dtype": args.dtype or "as the checkpoint says",
        "robot_file": args.robot, "default_prompt": args.default_prompt, "num_steps": args.num_steps,
        "seed": args.seed,
    }  # fmt: skip
    if args.replay is not None:
        found = replay(args.replay, responder, session)
        print(found.table(args.tolerance))
        return 0 if found.same(args.tolerance) else 1
    recorder = Recorder(args.record, session, round(args.record_limit_gb * 1e9)) if args.record else None
    try:
        asyncio.run(run(responder, settings, recorder))
    finally:
        if recorder is not None:
            recorder.close()
    return 0


def server_settings(args: ServeOptions) -> ServerSettings:
    """Where and for whom, checked before anything slow is done; a ``UserError`` says what is wrong."""
    for name, (least, most) in RANGES.items():
        value = getattr(args, name.replace("-", "_"))
        if not least <= value <= most or not math.isfinite(value):
            limits = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise UserError(f"--{name}: expected {limits}, got {value}")
    if args.record is not None and args.replay is not None:
        raise UserError("--record and --replay: one of them, please")
    key = read_key(args.api_key_file)
    check_exposure(args.host, key, args.auth)
    tls = server_tls(args.tls_certificate, args.tls_key)
    if key is not None and tls is None:
        log.warning("without TLS everybody on the way can read the API key and the pictures; see docs/serving.md")
    return ServerSettings(
        host=args.host, port=args.port, key=key, tls=tls, max_waiting=args.max_waiting,
        max_message_bytes=round(args.max_message_mb * 1e6), max_connections=args.max_connections, debug=args.debug,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = tyro.cli(ServeOptions, prog="python -m pi05_progress.serving", description=__doc__, args=arguments)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.DEBUG if args.debug else logging.INFO, force=True
    )
    for noisy in ("websockets", "jax", "absl", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(Throttle())
    # A connection that ends in the middle of its handshake is no event worth a traceback.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    return serve_policy(args) if args.debug else run_program(lambda: serve_policy(args))


if __name__ == "__main__":
    sys.exit(main())
