"""What the policy would do, and how far it believes the task to be, for one picture per camera.

    python examples/infer_from_pictures.py FOLDER --task "stack the cubes"

FOLDER holds a picture per camera, named as the robot profile names it (head_camera.png, left_color.png, ...). The arms
are taken to be at rest: joint positions would come from the robot, see ``RobotFrame.state``.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from pi05_progress import PolicyOptions, RobotFrame
from pi05_progress.make_policy import make_policy
from pi05_progress.robots.profile import RobotProfile

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--task", default="stack the cubes")
parser.add_argument("--checkpoint", default="models/tiny_demo")
args = parser.parse_args()

profile = RobotProfile.load("teleavatar")
policy = make_policy(profile, PolicyOptions(checkpoint=args.checkpoint))

found = {path.stem: path for path in args.folder.iterdir() if path.stem in profile.cameras}
if not found:
    parser.error(f"{args.folder}: no picture named after a camera: {', '.join(profile.cameras)}")
images = {key: cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for key, path in found.items()}
output = policy.infer(RobotFrame(images, np.zeros(profile.layout.vector_sizes[0], np.float32)), args.task)

print(
    f"progress {output.progress:.2f}, between {output.progress_interval[0]:.2f} and {output.progress_interval[1]:.2f}"
)
print(f"{len(output.actions)} rows of {output.actions.shape[1]} actions, {policy.action_dt_s:.3f} s apart; the first:")
print(np.array2string(output.actions[0], precision=2))
