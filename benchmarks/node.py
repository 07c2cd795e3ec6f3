"""What the policy node costs beside the policy: latency, processor time and losses, with three cameras and both arms.

    python benchmarks/node.py --seconds 20 --json node.json

A load generator in a process of its own publishes three 848x480 rgb8 cameras at 30 Hz and arms and grippers at 200 Hz;
the node runs in a second one, on the newest frames, at most ten times a second. Rows:

* idle: no task is set, so the node takes in everything and infers nothing;
* running: one of the model configurations at work.

Overhead is from the arrival of the frame that triggered an inference in the node's callback to the published message,
minus the policy's own time (transforms and model), as the node itself measures it; a frame that waited for an earlier
inference counts from that one's end. Outside is from the frame's stamp to the message's arrival in this process, minus
the policy's time: both transports are in it. Lost are frames that the generator sent and the node did not get; skipped
are frames that came while an inference ran and were superseded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.starting.processes import use_image_transport

PROFILE = RobotProfile.load("teleavatar")
SIZE, IMAGE_HZ, JOINT_HZ = (848, 480), 30, 200
SETTLE_S = 2.0  # until the last diagnostics of a phase are there


def main() -> int:
    """Run and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="configuration, random parameters (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="most inferences a second (default: %(default)s)")
    parser.add_argument("--domain", type=int, default=random.randrange(100, 230), help="ROS domain (default: any)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--generate", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ |= {"ROS_DOMAIN_ID": str(args.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    use_image_transport()
    if args.generate:
        generate(args.generate)
        return 0
    rows = [measure("idle", "", args), measure("running", "stack the cubes", args)]
    columns = ("overhead_median_ms", "overhead_p99_ms", "outside_median_ms", "outside_p99_ms", "policy_median_ms")
    print(f"{'':<9}{'inferences':>11}{'cpu %':>7}{'images sent':>13}{'lost':>6}{'skipped':>9}", end="")
    print("".join(f"{name.removesuffix('_ms').replace('_', ' '):>17}" for name in columns) + "  (ms)")
    for row in rows:
        counts = f"{row['inferences']:>11}{row['cpu_percent']:>7.0f}{row['images_sent']:>13}{row['images_lost']:>6}"
        print(f"{row['row']:<9}{counts}{row['frames_skipped']:>9}", end="")
        print("".join(f"{row[name]:>17.1f}" if row[name] is not None else f"{'-':>17}" for name in columns))
    idle, running = rows
    required = {
        "overhead, median below 5 ms": running["overhead_median_ms"] is not None and running["overhead_median_ms"] < 5,
        "no image lost while idle": idle["images_lost"] == 0,
    }
    for text, met in required.items():
        print(f"required: {text}: {'met' if met else 'NOT MET'}")
    if args.json:
        result = {"model": args.model, "rate_hz": args.rate, "rows": rows, "required": required}
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(row: str, prompt: str, args: argparse.Namespace) -> dict[str, object]:
    """One row: a node, and the load in front of it."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray

    from pi05_progress_msgs.msg import TaskProgress

    parameters = {"model": args.model, "inference_rate_hz": args.rate, "prompt": f"'{prompt}'"}
    given = [a for key, value in parameters.items() for a in ("-p", f"{key}:={value}")]
    rclpy.init()
    watcher = rclpy.create_node("benchmark")
    diagnostics: dict[str, dict[str, str]] = {}
    estimates: list[tuple[float, TaskProgress]] = []

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            diagnostics[status.name.partition(": ")[2]] = {pair.key: pair.value for pair in status.values}

    watcher.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    watcher.create_subscription(TaskProgress, "/task_progress", lambda m: estimates.append((time.time(), m)), 100)

    def spin(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rclpy.spin_once(watcher, timeout_sec=0.05)

    node = subprocess.Popen([sys.executable, "-m", "pi05_progress_ros.policy_node", "--ros-args", *given])
    try:
        while "inference" not in diagnostics:
            if node.poll() is not None:
                raise SystemExit(f"the node ended with status {node.returncode} before it was active")
            spin(0.2)
        load = [sys.executable, __file__, "--domain", str(args.domain), "--generate", str(args.seconds)]
        generator = subprocess.Popen(load, stdout=subprocess.PIPE, text=True)
        assert generator.stdout is not None
        generator.stdout.readline()  # it has found its subscribers and starts
        process, began = psutil.Process(node.pid), time.monotonic()
        before = sum(process.cpu_times()[:2])
        spin(args.seconds)
        cpu = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
        sent = json.loads(generator.communicate(timeout=60)[0])
        spin(SETTLE_S)
    finally:
        node.send_signal(signal.SIGINT)
        node.wait(30)
        watcher.destroy_node()
        rclpy.try_shutdown()
    received = sum(int(diagnostics[f"input {key}"]["messages"]) for key in PROFILE.cameras)
    inference = diagnostics["inference"]
    outside = [
        1e3 * (arrived - m.header.stamp.sec - m.header.stamp.nanosec * 1e-9) - m.inference_ms
        for arrived, m in estimates
        if math.isfinite(m.inference_ms)
    ]
    own = {key: None if inference[key] == "-" else float(inference[key]) for key in inference if key.endswith("_ms")}
    return {
        "row": row,
        "inferences": int(inference["inferences"]),
        "cpu_percent": 100 * cpu,
        "images_sent": sent,
        "images_lost": sent - received,
        "frames_skipped": int(inference["frames_skipped"]),
        "outside_median_ms": float(np.median(outside)) if outside else None,
        "outside_p99_ms": float(np.percentile(outside, 99)) if outside else None,
        **own,
    }


def generate(seconds: float) -> None:
    """Publish cameras and joints for a while, then print how many images were sent."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState

    rclpy.init()
    node = rclpy.create_node("load")
    images = [node.create_publisher(Image, c.topic, qos_profile_sensor_data) for c in PROFILE.cameras.values()]
    joints = []
    for side in PROFILE.arms:
        arm, gripper = PROFILE.arms[side], PROFILE.grippers[side]
        pose = arm.limits().mean(axis=1).tolist()
        joints.append((node.create_publisher(JointState, arm.state_topic, 10), list(arm.joints), pose))
        joints.append((node.create_publisher(JointState, gripper.state_topic, 10), [gripper.joint], [0.0]))
    while not all(p.get_subscription_count() for p in (*images, *(p for p, _, _ in joints))):
        time.sleep(0.05)
    time.sleep(0.5)
    print("ready", flush=True)
    width, height = SIZE
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, width * height * 3, np.uint8).tobytes() for _ in range(2)]  # no camera sees twice
    started, sent, ticks = time.monotonic(), 0, round(seconds * JOINT_HZ)
    due = [(i / 3 / IMAGE_HZ, publisher) for i, publisher in enumerate(images)]  # cameras are not in step
    for tick in range(ticks):
        now = node.get_clock().now().to_msg()
        for publisher, names, pose in joints:
            message = JointState(name=names, position=pose)
            message.header.stamp = now
            publisher.publish(message)
        for index, (when, publisher) in enumerate(due):
            if time.monotonic() - started >= when:
                message = Image(width=width, height=height, step=3 * width, encoding="rgb8")
                message.data.frombytes(pictures[sent // 3 % 2])
                message.header.stamp = node.get_clock().now().to_msg()
                publisher.publish(message)
                due[index] = (when + 1 / IMAGE_HZ, publisher)
                sent += 1
        delay = started + (tick + 1) / JOINT_HZ - time.monotonic()
        if delay > 0:
            time.sleep(delay)
    time.sleep(0.5)
    print(sent, flush=True)
    rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
