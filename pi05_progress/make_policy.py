"""The policy that settings ask for: this package's model, LeRobot's, one on a server, or code of one's own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import get_args

from .checkpoints.description import read_info
from .errors import UserError
from .models.config import named_config
from .policies.backend import choose_backend, require_torch
from .policies.compilation_cache import use_compilation_cache
from .policy import DEFAULT_OPTIONS, Noise, Policy, PolicyOptions, completed
from .robots.profile import RobotProfile
from .serving.client import WebsocketPolicy


def make_policy(profile: RobotProfile, options: PolicyOptions = DEFAULT_OPTIONS) -> Policy:
    """The policy that settings ask for; it may be asked at once, and ``warm_up`` compiles what it needs.

    Raises:
        PolicyUnavailableError: the policy server cannot be reached.
        ValueError: something is unknown or does not fit (also UserError, CheckpointError, ModelConfigError).
    """
    kind, checkpoint = options.policy, options.checkpoint
    if options.noise not in get_args(Noise):
        raise UserError(f"noise is {options.noise!r}; expected {', '.join(get_args(Noise))}")
    if kind != "pi05" and options.backend != "auto":
        raise UserError(f"backend is {options.backend!r}, but policy {kind} computes where it likes: leave it out")
    if kind == "websocket":
        if checkpoint:
            raise UserError(f"checkpoint is {checkpoint!r}, but policy websocket has that of its server: leave it out")
        timeout_s, noise, seed = options.server_timeout_s, options.noise, options.seed
        return WebsocketPolicy(options.server_uri, profile, timeout_s=timeout_s, noise=noise, seed=seed)
    if options.server_uri:
        raise UserError(f"server_uri is {options.server_uri!r}, but the policy is {kind!r}: it needs policy websocket")
    if kind != "pi05":
        if options.noise != "fresh":
            raise UserError(f"noise is {options.noise!r}, but policy {kind} draws its own: leave it out")
        return _own_policy(kind, profile)
    if choose_backend(checkpoint, options.backend) == "torch":
        require_torch()
        from .policies.torch_policy import load_torch_policy  # users of JAX need not have PyTorch

        return load_torch_policy(profile, options)
    if options.inference.compilation_cache:
        use_compilation_cache()
    from .checkpoints.checkpoint import load_checkpoint, untrained  # users of other policies need not load JAX
    from .policies.model_policy import Pi05Policy
    from .policies.sampler import inference_dtype

    if checkpoint:
        folder = Path(checkpoint)
        loaded = load_checkpoint(folder, dtype=inference_dtype(read_info(folder).model, options.dtype))
    else:
        loaded = untrained(named_config(options.model), profile.name, options.seed)
    return Pi05Policy(loaded, profile, options)


def _own_policy(name: str, profile: RobotProfile) -> Policy:
    module, _, function = name.partition(":")
    try:
        own = getattr(importlib.import_module(module), function)(profile)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"policy {name!r}: expected pi05, websocket or module:function of importable code: {error}"
        ) from error
    return completed(own)
