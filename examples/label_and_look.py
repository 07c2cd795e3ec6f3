"""Label every frame of a LeRobot data set with its progress, and make a page to look at it. The input stays as it is.

python examples/label_and_look.py DATASET OUTPUT
"""

import sys
from pathlib import Path

from training.add_progress_labels import LabelOptions, add_progress_labels
from training.inspect_dataset import InspectOptions, inspect_dataset

if len(sys.argv) != 3:
    sys.exit(__doc__)
source, target = map(Path, sys.argv[1:])

dataset, labels = add_progress_labels(LabelOptions(source, target, method="linear"))
page, episodes = inspect_dataset(InspectOptions(target, output=target.with_suffix(".html")))
print(f"{dataset.frame_count} frames of {len(episodes)} episodes labelled in {target}; look at {page}")
