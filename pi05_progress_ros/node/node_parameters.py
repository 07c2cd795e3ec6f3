"""The policy node's parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pi05_progress.policy import PolicyOptions

from ..commanding.command_rules import CommandSettings
from ..commanding.goal import HOLD_S, GoalLimits
from ..inputs import Limits
from ..parameters import parameter


@dataclass(frozen=True)
class NodeParameters:
    """The values of all parameters, as they were when the node was configured; the defaults say what each means."""

    robot: str = parameter("teleavatar", "robot profile: a name, or the path of a YAML file")
    policy: str = parameter(
        "pi05",
        "pi05, websocket for one on a policy server, or module:function of importable Python code that takes the "
        "profile and returns a policy",
    )
    server_uri: str = parameter(
        "", "address of the policy server, for policy websocket: ws://HOST:PORT or wss://HOST:PORT"
    )
    server_timeout_s: float = parameter(2.0, "how long its answer is waited for, s", between=(0.1, 60.0))
    checkpoint: str = parameter(
        "", "checkpoint folder; empty runs random parameters, whose progress is marked untrained"
    )
    backend: str = parameter(
        "auto",
        "jax for this package's checkpoints, torch for LeRobot's; auto takes what the checkpoint folder contains",
    )
    model: str = parameter("tiny", "model configuration where there is no checkpoint: tiny, mid, pi05, pi05_lora")
    tokenizer: str = parameter("", "path of PaliGemma's tokenizer, for checkpoints that use it")
    num_steps: int = parameter(10, "denoising steps of one inference", between=(1, 100))
    seed: int = parameter(
        0, "of random parameters and of the noise actions start from; every goal adds 1", between=(0, 2**31 - 1)
    )
    noise: str = parameter(
        "fresh", "what actions start from: fresh noise in every inference, that of the goal (episode), or zero"
    )
    gpu_memory_gb: float = parameter(
        0.0,
        "share of a GPU's memory that JAX takes, GB; 0: all but 4, which a video decoder and a viewer need",
        between=(0.0, 1000.0),
    )
    prompt: str = parameter(
        "", "the task's instruction; changed while running by this parameter or by ~/set_task", read_only=False
    )
    publish_commands: bool = parameter(
        False,
        "allow commanding the robot, once it is armed by ~/arm; can be switched while running",
        read_only=False,
    )
    inference_rate_hz: float = parameter(10.0, "most inferences a second, Hz", between=(0.1, 100.0))
    image_timeout_s: float = parameter(0.5, "an image older than this is stale, s", between=(0.05, 10.0))
    joint_timeout_s: float = parameter(0.2, "a joint state older than this is stale, s", between=(0.02, 10.0))
    skew_limit_s: float = parameter(
        0.2, "largest difference between the stamps of inputs used together, s", between=(0.01, 10.0)
    )
    stamp_past_limit_s: float = parameter(
        1.0, "how far a stamp may lie behind the node's clock, s", between=(0.05, 60.0)
    )
    stamp_future_limit_s: float = parameter(0.1, "how far a stamp may lie ahead of it, s", between=(0.001, 60.0))
    stream_port: int = parameter(
        0, "UDP port of the robot's video stream, where it has one; 0: as the profile says", between=(0, 65535)
    )
    hardware_decoding: str = parameter(
        "", "what decodes video packets where it can, as PyAV names it: cuda, vaapi, ...; empty: software"
    )
    control_rate_hz: float = parameter(100.0, "rate of commands, Hz", between=(10.0, 500.0))
    blend_s: float = parameter(0.2, "time for passing from one action chunk to the next, s", between=(0.0, 2.0))
    execute_s: float = parameter(
        0.0,
        "how long an action chunk is carried out before a newer one takes over, s; 0: every newer one does",
        between=(0.0, 10.0),
    )
    max_joint_speed: float = parameter(1.0, "largest speed of a commanded arm joint, rad/s", between=(0.01, 3.0))
    max_joint_acceleration: float = parameter(
        15.0, "largest acceleration of a commanded arm joint, rad/s^2", between=(0.5, 100.0)
    )
    max_tracking_error: float = parameter(
        0.5, "how far an arm joint may be from its command before commanding ends, rad", between=(0.05, 3.0)
    )
    goal_max_duration_s: float = parameter(
        120.0, "how long a goal of ~/run_task may take that gives no time itself, s", between=(1.0, 86400.0)
    )
    goal_stall_timeout_s: float = parameter(
        30.0, "how long progress may be STALLED before such a goal ends, s", between=(1.0, 86400.0)
    )
    goal_success_threshold: float = parameter(
        0.0,
        "progress above which the task of such a goal is done; 0: when the status of progress is SUCCEEDED",
        between=(0.0, 1.0),
    )
    goal_success_hold_s: float = parameter(
        HOLD_S, "for how long it must be above goal_success_threshold, s", between=(0.0, 60.0)
    )
    start_anywhere: bool = parameter(
        False,
        "take goals also where the arms are far from where training episodes begin, as to go on in mid-task",
        read_only=False,
    )
    autostart: bool = parameter(True, "configure and activate by itself")

    def policy_options(self) -> PolicyOptions:
        """Which policy, and how it computes."""
        own = {f.name for f in fields(self)} & {f.name for f in fields(PolicyOptions)}
        return PolicyOptions(**{name: getattr(self, name) for name in own})

    def limits(self) -> Limits:
        """What is fresh enough."""
        return Limits(
            image_age_s=self.image_timeout_s,
            joint_age_s=self.joint_timeout_s,
            skew_s=self.skew_limit_s,
            future_s=self.stamp_future_limit_s,
            past_s=self.stamp_past_limit_s,
        )

    def goals(self) -> GoalLimits:
        """When a goal ends that says nothing itself."""
        threshold, hold_s = self.goal_success_threshold or None, self.goal_success_hold_s
        return GoalLimits(self.goal_max_duration_s, self.goal_stall_timeout_s, threshold, hold_s)

    def commands(self) -> CommandSettings:
        """How commands are made."""
        return CommandSettings(
            self.control_rate_hz, self.blend_s, self.max_joint_speed, self.max_tracking_error, self.execute_s,
            self.max_joint_acceleration,
        )  # fmt: skip
