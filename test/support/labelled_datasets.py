"""Labelled copies of data sets, what they are made from, and the tool that makes them."""

import subprocess
import sys

import numpy as np
from conftest import PATIENCE_S
from places import ROOT
from small_datasets import facts, lerobot_copy

from training.add_progress_labels import LabelOptions, add_progress_labels
from training.datasets.reader import open_dataset


def with_outcomes(folder):
    """LeRobot's data set with two successes (one of them with milestones), a failure and an unknown outcome."""
    root = lerobot_copy(folder)
    success = {"grasped": 3, "placed": 9}
    facts(
        root, e0=("SUCCESS", success), e1=("SUCCESS", {"lifted": 10}), e2=("FAILURE", {}), e3=("FAILURE", {"lifted": 5})
    )
    return root


def labelled(source, target, **options):
    add_progress_labels(LabelOptions(source, target, **options))
    return target


def run(*arguments, before=(), **options):
    """The tool as a process of its own."""
    command = [*before, sys.executable, "-m", "training.add_progress_labels", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, **options)


def columns(root, *names):
    """Columns of all episodes, one after the other."""
    parts = [of for _, of in open_dataset(root).frames(names)]
    return [np.concatenate([of[name] for of in parts]) for name in names]
