"""Train a small model on a labelled data set for three steps, from Python: the recipe is an object like any other.

python examples/train_three_steps.py DATASET OUTPUT
"""

import dataclasses
import sys
from pathlib import Path

from training.recipes.tiny_demo import recipe
from training.train import train

if len(sys.argv) != 3:
    sys.exit(__doc__)

config = recipe()
config = dataclasses.replace(
    config,
    exp_name="three_steps",
    output=Path(sys.argv[2]),
    num_train_steps=3,
    batch_size=2,
    log_interval=1,
    data=dataclasses.replace(config.data, repo_id=sys.argv[1]),
)
train(config)
print(f"the checkpoint of step 3 and metrics.csv are in {config.output / config.name / config.exp_name}")
