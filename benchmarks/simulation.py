"""The simulated robot live on DDS: real time factor, rate of every topic and frames lost at a subscriber process.

    python benchmarks/simulation.py --seconds 10 --image-scale 0.5 --json simulation.json

A frame counts as lost when the stamps of two frames that arrived one after the other are more than 1.5 periods apart.
That includes frames the robot did not render, so the figure bounds the loss in transport from above.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pi05_progress_ros.transport import use_image_transport

PERIOD_S = {"image": 1 / 30, "joints": 1 / 200}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="wall time measured (default: %(default)s)")
    parser.add_argument("--image-scale", type=float, default=0.5, help="share of the real size (default: %(default)s)")
    parser.add_argument("--domain", type=int, default=87, help="ROS domain to use (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    os.environ |= {"ROS_DOMAIN_ID": str(args.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    use_image_transport()
    parameters = ["-p", f"image_scale:={args.image_scale}", "-p", "expert:=true"]
    command = [sys.executable, "-m", "pi05_progress_ros.sim.robot_node", "--ros-args", *parameters]
    robot = subprocess.Popen(command)
    try:
        rows = measure(args.seconds)
    finally:
        robot.send_signal(signal.SIGINT)
        robot.wait(20)
    print(f"{'topic':<28}{'Hz':>8}{'received':>10}{'lost':>6}{'x real time':>13}")
    for row in rows:
        print(f"{row['topic']:<28}{row['hz']:>8.1f}{row['received']:>10}{row['lost']:>6}{row['real_time']:>13.3f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(seconds: float) -> list[dict[str, object]]:
    """Subscribe to states and images for a while; one row per topic."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState

    rclpy.init()
    node = rclpy.create_node("benchmark")
    topics = {f"/{side}_{part}/joint_states": JointState for side in ("left", "right") for part in ("arm", "gripper")}
    topics |= dict.fromkeys(("/left/color/image_raw", "/right/color/image_raw", "/head/image_raw"), Image)
    seen: dict[str, list[tuple[float, float]]] = {topic: [] for topic in topics}

    def note(topic: str, stamp: object) -> None:
        seen[topic].append((time.monotonic(), stamp.sec + stamp.nanosec * 1e-9))

    for topic, kind in topics.items():
        node.create_subscription(kind, topic, lambda m, t=topic: note(t, m.header.stamp), qos_profile_sensor_data)
    started = time.monotonic()
    while not all(seen.values()):
        rclpy.spin_once(node, timeout_sec=0.1)
        if time.monotonic() - started > 30:
            raise SystemExit(f"no messages on {', '.join(t for t, s in seen.items() if not s)} within 30 s")
    for _ in range(200):  # let everything settle before counting
        rclpy.spin_once(node, timeout_sec=0.1)
    for samples in seen.values():
        samples.clear()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        rclpy.spin_once(node, timeout_sec=0.1)
    rclpy.try_shutdown()
    rows = []
    for topic, kind in topics.items():
        arrived, stamps = zip(*seen[topic], strict=True)
        period = PERIOD_S["image" if kind is Image else "joints"]
        lost = sum(round((b - a) / period) - 1 for a, b in itertools.pairwise(stamps) if b - a > 1.5 * period)
        wall = arrived[-1] - arrived[0]
        rate = (len(stamps) - 1) / wall
        real_time = (stamps[-1] - stamps[0]) / wall
        rows.append({"topic": topic, "hz": rate, "received": len(stamps), "lost": lost, "real_time": real_time})
    return rows


if __name__ == "__main__":
    main()
