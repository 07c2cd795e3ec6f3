"""Which data a run trains on, and how; the fields' docstrings are the help of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pi05_progress.errors import UserError

# How fields look on a command line. Configurations are used where tyro is not installed, too (``benchmarks/gpu.py``).
try:
    from tyro.conf import AvoidSubcommands, Fixed, SuppressFixed, arg
except ModuleNotFoundError:
    NO_FLAG, NOT_SHOWN, ALWAYS_THERE, ALSO_CACHE = "no flag", "not in the help", "always there", "--cache"
else:
    NO_FLAG, NOT_SHOWN = Fixed, SuppressFixed
    ALWAYS_THERE = AvoidSubcommands  # what may be None is given by its fields, not by a command of its own
    ALSO_CACHE = arg(aliases=["--cache"])

Interventions = Literal["only", "also", "never"]


class DataConfigError(UserError):
    """The data, or what was asked of it, does not fit; the message says what, where, and what to do."""


@dataclass(frozen=True)
class DataConfig:
    """Data sets and what is made of them."""

    repo_id: str = ""
    """Folder of a LeRobot v3.0 data set, or several separated by commas."""
    weights: tuple[float, ...] = ()
    """Share of each data set in what is trained on; none: by their numbers of frames, so that every frame is seen
    equally often."""
    robot: str = "teleavatar"
    """Robot profile: the name of one in config/, or a YAML file."""
    cameras: tuple[str, ...] = ()
    """Cameras of the profile that are used, such as head_camera; none: all. The model is told that the others are not
    there."""
    progress_column: str | None = None
    """Feature that holds the progress labels, or NAME:FEATURE of data sets by their folders' names, with commas between
    them. None: what meta/progress.json of each data set says, else the one that is called so, as observation.progress.
    Empty: labels are not used. Data sets without the feature train actions alone."""
    failed_actions: bool = False
    """Imitate episodes that failed, were aborted or cut off, too (meta/progress.json says which); off: their actions do
    not count, their progress labels do. Episodes of which nothing is known are imitated."""
    corrected_actions: bool = False
    """Imitate failed episodes of data sets whose labels are an expert's corrections (demonstration.actions), too, and
    those of no others: what the expert would have done there was right, whatever came of it."""
    progress_only: tuple[str, ...] = ()
    """Data sets, by their folders' names, of which progress alone is learnt: such as show other ways of moving."""
    mirror: bool = False
    """Train on every episode a second time as a mirror shows it, as if the other arm had done it: for robots whose arms
    mirror each other, and instructions that name no side."""
    interventions: Interventions = "also"
    """Whose actions are learnt where operators took over from a policy (the column intervention): only the operators',
    also the policy's, or never the operators'. Progress is learnt from all frames."""
    validation_fraction: float = 0.1
    """Share of each data set's episodes that is held out, at least one episode; 0 holds out none."""
    seed_split: int = 0
    """Decides, with the episode's number, which episodes are held out."""
    norm_stats: Path | None = None
    """File with statistics; none: norm_stats.json in the data set, if there is one data set, else they are computed."""
    compute_norm_stats: bool = True
    """Compute statistics that are missing; off: missing ones are an error."""
    foreign_norm_stats: bool = False
    """Take statistics though they are not those of the data, such as a base checkpoint's."""
    quantiles: bool = True
    """Normalise by the 1 % and 99 % quantiles, as Pi0.5 does; off: by mean and deviation."""
    asset_id: str = ""
    """Name that the statistics have in checkpoints; empty: the data sets' folder names."""
    delta_actions: bool = False
    """Arm targets relative to the present state."""
    actions_per_row: bool = False
    """Normalise every row of a chunk by statistics of its own (actions_per_row), so that the first rows, which hardly
    move relative to the state, are learnt as exactly as the last."""
    cache: Annotated[Path | None, ALSO_CACHE] = None
    """Folder for pictures at the size the model reads, decoded once and kept; none: decoded whenever they are used."""
    features: Path | None = None
    """Folder for what a frozen vision tower makes of all pictures, computed once and kept: trunk and heads are trained
    on it, without augmentation, and a step costs as little as these. Needs --freeze of the tower, and one process."""
    resident: bool = False
    """Keep every sample in the device's memory, where batches are chosen: for data that fit there, and steps that are
    faster than loading. The order is another one than without it."""
    workers: int = 0
    """Processes that load beside this one; 0: threads of this one, which is best with a cache."""
    threads: int = 4
    """Threads that load, in every process that does."""
    instructions: Path | None = None
    """File of other wordings of the data's instructions and of such as are to be refused (config/instructions.yaml):
    half of the samples are told in another wording, and wrong_instruction takes what is to be refused, too. Every third
    wording of each list is left out, to judge the model by."""
    wrong_instruction: float = 0.0
    """Share of samples whose prompt is replaced by another task's: progress 0, and the actions do not count. With data
    that are resident, these stay the same samples."""
    reversed_clip: float = 0.0
    """Share of the labelled samples of successful episodes that are taken from the clip running backwards: the label is
    that of the frame shown, and the actions do not count."""
