"""The policy node's parameters: declared with description and range, read into one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rclpy.node import Node

from pi05_progress.policy import PolicyOptions

from ..commanding.command_rules import CommandSettings
from ..inputs import Limits
from ..parameters import declare, refuse_unknown


@dataclass(frozen=True)
class NodeParameters:
    """The values of all parameters, as they were when the node was configured."""

    robot: str
    policy: str
    server_uri: str
    server_timeout_s: float
    checkpoint: str
    backend: str
    model: str
    tokenizer: str
    num_steps: int
    seed: int
    gpu_memory_gb: float
    prompt: str
    publish_commands: bool
    inference_rate_hz: float
    image_timeout_s: float
    joint_timeout_s: float
    skew_limit_s: float
    stamp_past_limit_s: float
    stamp_future_limit_s: float
    control_rate_hz: float
    blend_s: float
    max_joint_speed: float
    max_tracking_error: float
    autostart: bool

    def policy_options(self) -> PolicyOptions:
        """Which policy, and how it computes."""
        return PolicyOptions(
            policy=self.policy,
            checkpoint=self.checkpoint,
            backend=self.backend,
            model=self.model,
            tokenizer=self.tokenizer,
            num_steps=self.num_steps,
            seed=self.seed,
            server_uri=self.server_uri,
            server_timeout_s=self.server_timeout_s,
        )

    def limits(self) -> Limits:
        """What is fresh enough."""
        return Limits(
            image_age_s=self.image_timeout_s,
            joint_age_s=self.joint_timeout_s,
            skew_s=self.skew_limit_s,
            future_s=self.stamp_future_limit_s,
            past_s=self.stamp_past_limit_s,
        )

    def commands(self) -> CommandSettings:
        """How commands are made."""
        return CommandSettings(self.control_rate_hz, self.blend_s, self.max_joint_speed, self.max_tracking_error)


def declare_parameters(node: Node) -> None:
    """Declare everything.

    Raises:
        UserError: one is unknown, of another type or out of range.
    """
    declare(node, "robot", "teleavatar", "robot profile: a name, or the path of a YAML file")
    text = (
        "pi05, websocket for one on a policy server, or module:function of importable Python code that takes the "
        "profile and returns a policy"
    )
    declare(node, "policy", "pi05", text)
    declare(
        node, "server_uri", "", "address of the policy server, for policy websocket: ws://HOST:PORT or wss://HOST:PORT"
    )
    declare(node, "server_timeout_s", 2.0, "how long its answer is waited for, s", between=(0.1, 60.0))
    declare(
        node, "checkpoint", "", "checkpoint folder; empty runs random parameters, whose progress is marked untrained"
    )
    text = "jax for this package's checkpoints, torch for LeRobot's; auto takes what the checkpoint folder contains"
    declare(node, "backend", "auto", text)
    declare(node, "model", "tiny", "model configuration where there is no checkpoint: tiny, mid, pi05, pi05_lora")
    declare(node, "tokenizer", "", "path of PaliGemma's tokenizer, for checkpoints that use it")
    declare(node, "num_steps", 10, "denoising steps of one inference", between=(1, 100))
    declare(node, "seed", 0, "of random parameters and of the noise actions start from", between=(0, 2**31 - 1))
    text = "share of a GPU's memory that JAX takes, GB; 0: all but 4, which a video decoder and a viewer need"
    declare(node, "gpu_memory_gb", 0.0, text, between=(0.0, 1000.0))
    text = "the task's instruction; changed while running by this parameter or by ~/set_task"
    declare(node, "prompt", "", text, read_only=False)
    text = "command the robot with the policy's actions; can be switched while running"
    declare(node, "publish_commands", False, text, read_only=False)
    declare(node, "inference_rate_hz", 10.0, "most inferences a second, Hz", between=(0.1, 100.0))
    declare(node, "image_timeout_s", 0.5, "an image older than this is stale, s", between=(0.05, 10.0))
    declare(node, "joint_timeout_s", 0.2, "a joint state older than this is stale, s", between=(0.02, 10.0))
    text = "largest difference between the stamps of inputs used together, s"
    declare(node, "skew_limit_s", 0.2, text, between=(0.01, 10.0))
    declare(node, "stamp_past_limit_s", 1.0, "how far a stamp may lie behind the node's clock, s", between=(0.05, 60.0))
    declare(node, "stamp_future_limit_s", 0.1, "how far a stamp may lie ahead of it, s", between=(0.001, 60.0))
    declare(node, "control_rate_hz", 100.0, "rate of commands, Hz", between=(10.0, 500.0))
    declare(node, "blend_s", 0.2, "time for passing from one action chunk to the next, s", between=(0.0, 2.0))
    declare(node, "max_joint_speed", 1.0, "largest speed of a commanded arm joint, rad/s", between=(0.01, 3.0))
    text = "how far an arm joint may be from its command before commanding ends, rad"
    declare(node, "max_tracking_error", 0.5, text, between=(0.05, 3.0))
    declare(node, "autostart", True, "configure and activate by itself")
    refuse_unknown(node)


def read_parameters(node: Node) -> NodeParameters:
    """The present values."""
    return NodeParameters(**{f.name: node.get_parameter(f.name).value for f in fields(NodeParameters)})
