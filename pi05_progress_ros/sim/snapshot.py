"""Pictures of a task at work, from all cameras: ``python -m pi05_progress_ros.sim.snapshot --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from .expert.expert import Expert, apply
from .physics.cameras import CameraRig, scaled_sizes
from .physics.tasks import TASKS
from .physics.world import World


def main() -> None:
    """Run the expert for a while, then save one PNG per task and camera."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the PNG files")
    parser.add_argument("--seed", type=int, default=1, help="episode (default: %(default)s)")
    parser.add_argument("--at", type=float, default=10.0, help="simulated time, s (default: %(default)s)")
    parser.add_argument("--image-scale", type=float, default=0.5, help="share of the real size (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        world = World(task, args.seed)
        expert = Expert(world, args.seed)
        while world.time_s < args.at and not expert.finished:
            apply(world, expert.command())
            world.step(5)
        rig = CameraRig(world.model, scaled_sizes(args.image_scale))
        for camera, image in rig.render(world.snapshot()).items():
            path = args.out / f"{task}_{camera}.png"
            Image.fromarray(image).save(path, optimize=True)
            print(path)
        rig.close()


if __name__ == "__main__":
    main()
