"""How fast the simulated robot is: without cameras, with cameras, into bags, and live on DDS.

    python benchmarks/simulation.py --seconds 10 --json simulation.json

Live, messages lost in transport are gaps in the publisher's sequence numbers; messages not made are gaps in the stamps
beyond those: the robot was late with them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pi05_progress_ros.sim.physics.cameras import CameraRig, scaled_sizes
from pi05_progress_ros.sim.physics.laboratory import Laboratory
from pi05_progress_ros.sim.physics.world import World
from pi05_progress_ros.starting.processes import use_image_transport

PERIOD_S = {"image": 1 / 30, "joints": 1 / 200}


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured per live row (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=8, help="written into bags (default: %(default)s)")
    parser.add_argument("--domain", type=int, default=87, help="ROS domain to use (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    os.environ |= {"ROS_DOMAIN_ID": str(args.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    use_image_transport()
    speeds = {
        "physics alone": stepping(None),
        "physics, three cameras at half size, 30 Hz": stepping(0.5),
        "physics, three cameras at full size, 30 Hz": stepping(1.0),
        "the same at quarter size": stepping(0.25),
        "the same at quarter size, random laboratories": stepping(0.25, Laboratory("random")),
        f"generate, quarter size, {os.cpu_count()} workers": generating(args.episodes),
    }
    print(f"{'':<48}{'x real time':>12}")
    for name, speed in speeds.items():
        print(f"{name:<48}{speed:>12.2f}")
    live = {}
    for scale in (0.5, 1.0):
        rows = live[str(scale)] = live_rates(args.seconds, scale)
        print(f"\nlive on DDS, expert at work, images at {scale:g} of the real size")
        print(f"{'topic':<28}{'Hz':>8}{'received':>10}{'lost':>6}{'not made':>10}{'x real time':>13}")
        for row in rows:
            counts = f"{row['received']:>10}{row['lost']:>6}{row['not_made']:>10}"
            print(f"{row['topic']:<28}{row['hz']:>8.1f}{counts}{row['real_time']:>13.3f}")
    if args.json:
        args.json.write_text(json.dumps({"real_time": speeds, "live": live}, indent=1) + "\n", encoding="utf-8")


def stepping(scale: float | None, laboratory: Laboratory | None = None, simulated_s: float = 4.0) -> float:
    """Times real time of the world in this process, rendering 30 images a second and camera at a scale, or none.

    A random laboratory is another one every half second, because some of them have shadows, which take time.
    """
    world = World("stack_cubes", 0, laboratory=laboratory or Laboratory())
    rig = CameraRig(world.model, scaled_sizes(scale)) if scale else None
    frames = round(simulated_s * 30)
    steps = round(1 / 30 / world.timestep_s)
    if rig:
        rig.render(world.snapshot())
    started = time.perf_counter()
    for frame in range(frames):
        if laboratory and frame % 15 == 0:
            world.reset()
        world.step(steps)
        if rig:
            rig.render(world.snapshot())
    seconds = time.perf_counter() - started
    if rig:
        rig.close()
    return frames * steps * world.timestep_s / seconds


def generating(episodes: int) -> float:
    """Times real time of the bag generator as a whole process, start included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pi05_progress_ros.sim.generate", "--task", "stack_cubes", "--out", folder]
        started = time.perf_counter()
        subprocess.run([*command, "--episodes", str(episodes)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        facts = json.loads((Path(folder) / "episodes.json").read_text(encoding="utf-8"))
    return sum(episode["duration_s"] for episode in facts) / seconds


def live_rates(seconds: float, scale: float) -> list[dict[str, object]]:
    """Rates at a subscriber while the live robot runs in a process of its own; one row per topic."""
    parameters = ["-p", f"image_scale:={scale}", "-p", "expert:=true", "-p", "expert_episodes:=0"]
    command = [sys.executable, "-m", "pi05_progress_ros.sim.robot_node", "--ros-args", *parameters]
    robot = subprocess.Popen(command)
    try:
        return measure(seconds)
    finally:
        robot.send_signal(signal.SIGINT)
        robot.wait(20)


def measure(seconds: float) -> list[dict[str, object]]:
    """Subscribe to states and images for a while; one row per topic."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState

    rclpy.init()
    node = rclpy.create_node("benchmark")
    topics = {f"/{side}_{part}/joint_states": JointState for side in ("left", "right") for part in ("arm", "gripper")}
    topics |= dict.fromkeys(("/left/color/image_raw", "/right/color/image_raw", "/head/image_raw"), Image)
    seen: dict[str, list[tuple[float, float, int]]] = {topic: [] for topic in topics}

    def subscribe(topic: str, kind: type) -> None:
        def note(message: Image | JointState, info: dict) -> None:
            stamp = message.header.stamp
            seen[topic].append(
                (time.monotonic(), stamp.sec + stamp.nanosec * 1e-9, info["publication_sequence_number"])
            )

        node.create_subscription(kind, topic, note, qos_profile_sensor_data)

    for topic, kind in topics.items():
        subscribe(topic, kind)
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
        arrived, stamps, numbers = zip(*seen[topic], strict=True)
        period = PERIOD_S["image" if kind is Image else "joints"]
        lost = numbers[-1] - numbers[0] + 1 - len(numbers)
        gaps = sum(round((b - a) / period) - 1 for a, b in itertools.pairwise(stamps) if b - a > 1.5 * period)
        wall = arrived[-1] - arrived[0]
        rate = (len(stamps) - 1) / wall
        real_time = (stamps[-1] - stamps[0]) / wall
        row = {"topic": topic, "hz": rate, "received": len(stamps), "lost": lost, "not_made": max(0, gaps - lost)}
        rows.append(row | {"real_time": real_time})
    return rows


if __name__ == "__main__":
    main()
