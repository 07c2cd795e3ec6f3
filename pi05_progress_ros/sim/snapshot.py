"""Pictures of a task at work, from all cameras: ``python -m pi05_progress_ros.sim.snapshot --out DIR``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from pi05_progress.errors import UserError

from ..command_line import read_options
from ..starting.simulation_choices import LaboratoryName
from .expert.expert import Expert, apply
from .physics.cameras import CameraRig, check_rendering, scaled_sizes
from .physics.laboratory import SHIFT_HELP, Laboratory
from .physics.tasks import TASKS
from .physics.world import World

MODULE = "pi05_progress_ros.sim.snapshot"


@dataclass(frozen=True)
class Options:
    """Command line."""

    out: Path
    """Folder for the PNG files."""
    seed: int = 1
    """Episode."""
    at: float = 10.0
    """Simulated time, s."""
    image_scale: float = 0.5
    """Image size as a share of the real cameras'."""
    laboratory: LaboratoryName = "plain"
    """Where the robot stands: always the same, or in a laboratory drawn at random from the seed."""
    shift: Annotated[str, tyro.conf.arg(help=SHIFT_HELP)] = "none"

    def check(self) -> None:
        """Raise a ``UserError`` if one of the options cannot be used, or nothing can be rendered here."""
        check_rendering(self.image_scale)
        Laboratory(self.laboratory, self.shift)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the expert for a while, then save one PNG per task and camera; returns the exit status."""
    options = read_options(Options, MODULE, __doc__, arguments, Options.check)
    for task in TASKS:
        world = World(task, options.seed, laboratory=Laboratory(options.laboratory, options.shift))
        expert = Expert(world, options.seed)
        while world.time_s < options.at and not expert.finished:
            apply(world, expert.command())
            world.step(5)
        rig = CameraRig(world.model, scaled_sizes(options.image_scale))
        for camera, image in rig.render(world.snapshot()).items():
            path = options.out / f"{task}_{camera}.png"
            Image.fromarray(image).save(path, optimize=True)
            print(path)
        rig.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
